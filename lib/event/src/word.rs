//! Closed vocabularies: enums that are stored, sent and shown as one fixed word each.

/// Declares an enum whose variants are fixed words, with `as_str`, `FromStr`, serde and column support.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every word of the vocabulary, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word that is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::word::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok($name::$variant),)+
                    _ => Err($crate::word::UnknownWord {
                        known: &[$($word),+],
                        word: word.chars().take(64).collect(),
                    }),
                }
            }
        }

        $crate::word_column!($name);
    };
}

/// A word that its vocabulary does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is unknown; it must be one of {}", known.join(", "))]
pub struct UnknownWord {
    /// Every word of the vocabulary, in order.
    pub known: &'static [&'static str],
    /// What was found, cut to 64 characters.
    pub word: String,
}

#[cfg(test)]
mod tests {
    use crate::table::FindingState;

    #[test]
    fn unknown_word_is_answered_with_those_that_are_known() {
        let fault = "foo".parse::<FindingState>().unwrap_err().to_string();
        assert_eq!(fault, "\"foo\" is unknown; it must be one of open, resolved");
    }
}
