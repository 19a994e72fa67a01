//! A rule, compiled: what is tested of which field, joined by and, or and not.

use std::net::IpAddr;
use std::sync::Arc;

use regex::Regex;

use super::meta::Meta;
use super::text::Pattern;

/// Number of a field's name within a [`Names`].
pub(crate) type FieldId = u32;

/// Names of fields, numbered; numbers are never used again, so that rules outlive a reload.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    numbers: foldhash::HashMap<Arc<str>, FieldId>,
    names: Vec<Arc<str>>,
}

impl Names {
    /// The number of a name; a new one when it is new.
    pub(crate) fn number(&mut self, name: &str) -> FieldId {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = FieldId::try_from(self.names.len()).unwrap_or(FieldId::MAX);
        let name: Arc<str> = Arc::from(name);
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    /// The number of a name that some rule uses.
    pub(crate) fn find(&self, name: &str) -> Option<FieldId> {
        self.numbers.get(name).copied()
    }

    /// The name of a number.
    pub(crate) fn name(&self, number: FieldId) -> &str {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.names.get(number))
            .map_or("?", |name| name.as_ref())
    }
}

/// A log source: of a rule, what it asks for; of an event, what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogSource {
    /// Such as `linux`.
    pub product: Option<String>,
    /// Such as `process_creation`.
    pub category: Option<String>,
    /// Such as `auditd`.
    pub service: Option<String>,
}

impl std::fmt::Display for LogSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [&self.product, &self.category, &self.service];
        let words: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        formatter.write_str(&words.join("/"))
    }
}

/// A compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) meta: Meta,
    pub(crate) source: LogSource,
    pub(crate) condition: Expr,
    /// The condition as it is written.
    pub(crate) written: String,
}

/// A condition.
#[derive(Debug, Clone)]
pub(crate) enum Expr {
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// At least so many of them.
    AtLeast(u64, Vec<Expr>),
    Not(Box<Expr>),
    Test(Test),
}

/// One look at one field, or at every value when there is no field.
#[derive(Debug, Clone)]
pub(crate) struct Test {
    pub(crate) field: Option<FieldId>,
    pub(crate) matcher: Matcher,
}

/// What is looked for.
#[derive(Debug, Clone)]
pub(crate) enum Matcher {
    Text(Pattern),
    Regex(Arc<Regex>),
    Network(Network),
    Compare(Comparison, f64),
    Exists(bool),
    /// Another field of the same event.
    Field {
        other: FieldId,
        how: Joint,
        cased: bool,
    },
    /// A part of the field read as a time, in UTC.
    Time(TimePart, i64),
}

/// How a number compares to the rule's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Whether `left` stands so to `right`.
    pub(crate) fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }

    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// How a field has to stand to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joint {
    Equal,
    StartsWith,
    EndsWith,
    Contains,
}

/// A part of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimePart {
    Minute,
    Hour,
    Day,
    /// Week of the year as strftime's `%W` numbers it: the first Monday begins week 1.
    Week,
    Month,
    Year,
}

/// A network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: u128,
    mask: u128,
    is_v6: bool,
    pub(crate) bits: u8,
}

impl Network {
    /// Reads `address/bits`; an address alone is a network of one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(address, bits)| (address, Some(bits)));
        let wrong = || format!("{text:?} is not a network in CIDR notation, such as 10.0.0.0/8");
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let width: u8 = if address.is_ipv6() { 128 } else { 32 };
        let bits = match bits {
            Some(bits) => bits.trim().parse::<u8>().map_err(|_| wrong())?,
            None => width,
        };
        let host_bits = width.checked_sub(bits).ok_or_else(wrong)?;
        let mask = u128::MAX.checked_shl(u32::from(host_bits)).unwrap_or(0);
        Ok(Self {
            address: number(address) & mask,
            mask,
            is_v6: address.is_ipv6(),
            bits,
        })
    }

    /// Whether a text is an address of it.
    pub(crate) fn holds(&self, text: &str) -> bool {
        // An address of a link is written with the link's name.
        let address = text.split_once('%').map_or(text, |(address, _link)| address);
        let Ok(mut address) = address.parse::<IpAddr>() else {
            return false;
        };
        if !self.is_v6 {
            // One of version 4 as a socket of version 6 has it.
            address = address.to_canonical();
        }
        address.is_ipv6() == self.is_v6 && number(address) & self.mask == self.address
    }

    /// Its lowest address.
    pub(crate) fn first(&self) -> IpAddr {
        if self.is_v6 {
            return IpAddr::V6(self.address.into());
        }
        IpAddr::V4(u32::try_from(self.address).unwrap_or(0).into())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}
