//! Reading fields at fixed offsets, and the table of those offsets.

use super::AbiError;

/// Where a field lies in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldLayout {
    /// Its name in `abi.h`, with the path through nested structs.
    pub name: &'static str,
    /// Bytes from the start of the record.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
}

/// Where the fields of a struct lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Its name in C.
    pub name: &'static str,
    /// Its bytes.
    pub size: usize,
    /// Those of its fields that are read or written here.
    pub fields: &'static [FieldLayout],
}

/// A type that stands in a record.
pub(super) trait Field: Sized {
    fn read(bytes: &[u8], offset: usize) -> Result<Self, AbiError>;
}

/// The `N` bytes at `offset`.
fn read_bytes<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], AbiError> {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(AbiError::Short {
            wanted: offset + N,
            found: bytes.len(),
        })
}

macro_rules! integer_field {
    ($($integer:ty),+) => {
        $(impl Field for $integer {
            fn read(bytes: &[u8], offset: usize) -> Result<Self, AbiError> {
                read_bytes(bytes, offset).map(<$integer>::from_le_bytes)
            }
        })+
    };
}
integer_field!(u8, u16, u32, u64, i32, i64);

impl<const N: usize> Field for [u8; N] {
    fn read(bytes: &[u8], offset: usize) -> Result<Self, AbiError> {
        read_bytes(bytes, offset)
    }
}

/// A little-endian number of two bytes.
pub(super) fn read_u16(bytes: &[u8], offset: usize) -> Result<u16, AbiError> {
    u16::read(bytes, offset)
}

/// The `len` bytes at `from`, behind the fixed part of a record.
pub(super) fn tail(bytes: &[u8], from: usize, len: impl Into<usize>) -> Result<&[u8], AbiError> {
    let end = from.saturating_add(len.into());
    bytes.get(from..end).ok_or(AbiError::Short {
        wanted: end,
        found: bytes.len(),
    })
}

/// Puts `from` into `to` at `offset`; what does not fit is left out.
pub(super) fn write(to: &mut [u8], offset: usize, from: &[u8]) {
    if let Some(place) = to.get_mut(offset..offset + from.len()) {
        place.copy_from_slice(from);
    }
}

/// Declares a record: its struct, its size, how it is read, and its layout for the comparison with the objects.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($c_name:literal, $size:literal) {
            $($field:ident: $type:ty = $offset:literal, $path:literal;)+
        }
    ) => {
        $(#[$meta])*
        ///
        /// Times are nanoseconds of the boot clock; the fields are described in `abi.h`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[expect(missing_docs, reason = "the fields are described once, in abi.h")]
        pub struct $name { $(pub $field: $type,)+ }

        impl $name {
            /// Bytes of the fixed part.
            pub const SIZE: usize = $size;
            /// Where each field lies in the struct in C.
            pub const LAYOUT: $crate::abi::Layout = $crate::abi::Layout {
                name: $c_name,
                size: $size,
                fields: &[
                    $($crate::abi::FieldLayout {
                        name: $path,
                        offset: $offset,
                        size: size_of::<$type>(),
                    },)+
                ],
            };

            /// Reads the fixed part.
            ///
            /// # Errors
            /// When the bytes are fewer.
            pub fn parse(bytes: &[u8]) -> Result<Self, $crate::abi::AbiError> {
                if bytes.len() < Self::SIZE {
                    return Err($crate::abi::AbiError::Short {
                        wanted: Self::SIZE,
                        found: bytes.len(),
                    });
                }
                Ok(Self { $($field: $crate::abi::layout::Field::read(bytes, $offset)?,)+ })
            }
        }
    };
}
pub(super) use record;
