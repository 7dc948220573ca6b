//! Reads pickles as data: nothing is imported, called or made, and what no state dict needs is refused by name.
//!
//! A pickle is a program for a stack machine. Here its calls are written down instead of done, so that a reader of the
//! result can tell what was stored. Values lie in one list and refer to each other by number: nesting costs no stack,
//! and a value that is used a thousand times is held once.
//!
//! Source: Python's `pickletools.py`, protocols 2 to 5.

use std::collections::BTreeMap;

use thiserror::Error;

/// Most values: a tensor in a state dict takes some twenty.
const MOST_VALUES: usize = 1 << 22;
/// The newest protocol whose instructions are known.
const NEWEST_PROTOCOL: u8 = 5;

/// The number of a value.
pub(super) type ValueId = usize;

/// A stored value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PickleValue {
    None,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Tuple(Vec<ValueId>),
    List(Vec<ValueId>),
    /// Keys and values in the order they were set.
    Dictionary(Vec<(ValueId, ValueId)>),
    /// A name of a module, by its place in the list of names that are allowed.
    Global(usize),
    /// A call that was not done: what would be called, and the tuple of its arguments.
    Call(ValueId, ValueId),
    /// Something kept outside of the pickle, by what identifies it.
    Persistent(ValueId),
}

/// Why a pickle was refused; a fragment that follows `found:`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum PickleError {
    #[error("a pickle that ends early, at byte {0}")]
    Ends(usize),
    #[error("protocol {0} of pickle")]
    Protocol(u8),
    #[error("the instruction {code:#04x} at byte {at}, which no state dict needs")]
    Instruction { code: u8, at: usize },
    #[error("the name `{module}.{name}`, which no state dict needs and which could run code")]
    Global { module: String, name: String },
    #[error("an impossible pickle: {what} at byte {at}")]
    Impossible { what: &'static str, at: usize },
    #[error("a pickle of more than {MOST_VALUES} values")]
    TooLarge,
}

/// The values of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<PickleValue>,
    root: ValueId,
}

impl Pickle {
    /// Reads the pickle in `bytes`, in which only the names in `allowed` (module, name) may stand.
    pub(super) fn read(bytes: &[u8], allowed: &[(&str, &str)]) -> Result<Self, PickleError> {
        let mut machine = Machine {
            bytes,
            at: 0,
            allowed,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            next_memo: 0,
        };
        loop {
            let at = machine.at;
            let [code] = machine.take()?;
            if code == b'.' {
                let root = machine.pop()?;
                return Ok(Self {
                    values: machine.values,
                    root,
                });
            }
            if !(machine.simple_value(code)? || machine.container(code)? || machine.reference(code)?) {
                return Err(PickleError::Instruction { code, at });
            }
        }
    }

    /// What the pickle stands for.
    pub(super) fn root(&self) -> &PickleValue {
        self.value(self.root)
    }

    /// The value of a number that another value holds.
    pub(super) fn value(&self, id: ValueId) -> &PickleValue {
        &self.values[id]
    }
}

struct Machine<'run> {
    bytes: &'run [u8],
    at: usize,
    allowed: &'run [(&'run str, &'run str)],
    values: Vec<PickleValue>,
    stack: Vec<ValueId>,
    marks: Vec<usize>,
    memo: BTreeMap<u64, ValueId>,
    next_memo: u64,
}

impl Machine<'_> {
    /// Instructions that push a value without parts; whether `code` is one.
    fn simple_value(&mut self, code: u8) -> Result<bool, PickleError> {
        let value = match code {
            b'N' => PickleValue::None,
            0x88 => PickleValue::Bool(true),
            0x89 => PickleValue::Bool(false),
            b'J' => PickleValue::Integer(i32::from_le_bytes(self.take()?).into()),
            b'K' => PickleValue::Integer(self.take::<1>()?[0].into()),
            b'M' => PickleValue::Integer(u16::from_le_bytes(self.take()?).into()),
            0x8a => PickleValue::Integer(self.long()?),
            b'G' => PickleValue::Float(f64::from_be_bytes(self.take()?)),
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.take()?);
                self.text(length.into())?
            }
            0x8c | b'U' => {
                let [length] = self.take()?;
                self.text(length.into())?
            }
            0x8d => {
                let length = u64::from_le_bytes(self.take()?);
                self.text(length)?
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?
            }
            _ => return Ok(false),
        };
        self.push(value)?;
        Ok(true)
    }

    /// Instructions that make or fill tuples, lists and dictionaries; whether `code` is one.
    fn container(&mut self, code: u8) -> Result<bool, PickleError> {
        match code {
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push(PickleValue::Tuple(Vec::new()))?,
            b']' => self.push(PickleValue::List(Vec::new()))?,
            b'}' => self.push(PickleValue::Dictionary(Vec::new()))?,
            b't' => {
                let parts = self.pop_marked()?;
                self.push(PickleValue::Tuple(parts))?;
            }
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(code - 0x84));
                let start = start.ok_or_else(|| self.impossible("a tuple of too few values"))?;
                let parts = self.stack.split_off(start);
                self.push(PickleValue::Tuple(parts))?;
            }
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])?;
            }
            b'e' => {
                let values = self.pop_marked()?;
                self.append(values)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let values = self.pop_marked()?;
                self.set_items(&values)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Instructions about other values: the memo, names, calls and what is kept outside; whether `code` is one.
    fn reference(&mut self, code: u8) -> Result<bool, PickleError> {
        match code {
            0x80 => {
                let [protocol] = self.take()?;
                if protocol > NEWEST_PROTOCOL {
                    return Err(PickleError::Protocol(protocol));
                }
            }
            // The length of what follows, which is here in one piece anyhow.
            0x95 => {
                self.take::<8>()?;
            }
            b'q' => {
                let [slot] = self.take()?;
                self.remember(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.take()?);
                self.remember(slot.into())?;
            }
            0x94 => self.remember(self.next_memo)?,
            b'h' => {
                let [slot] = self.take()?;
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.take()?);
                self.recall(slot.into())?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                let value = self.global(module, name)?;
                self.push(value)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(PickleValue::Persistent(id))?;
            }
            b'R' => self.call()?,
            b'b' => {
                // The attributes of a dictionary, as torch's `_metadata`, hold no tensors.
                self.pop()?;
                if !matches!(self.top()?, PickleValue::Dictionary(_)) {
                    return Err(self.impossible("attributes for what is no dictionary"));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `collections.OrderedDict()` is a dictionary; any other call is written down.
    fn call(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (PickleValue::Global(name), PickleValue::Tuple(given)) = (&self.values[function], &self.values[arguments])
        else {
            return Err(self.impossible("a call of what is no name"));
        };
        let is_dictionary = self.allowed[*name] == ("collections", "OrderedDict") && given.is_empty();
        self.push(if is_dictionary {
            PickleValue::Dictionary(Vec::new())
        } else {
            PickleValue::Call(function, arguments)
        })
    }

    fn global(&self, module: String, name: String) -> Result<PickleValue, PickleError> {
        let place = self
            .allowed
            .iter()
            .position(|known| known.0 == module && known.1 == name);
        place
            .map(PickleValue::Global)
            .ok_or(PickleError::Global { module, name })
    }

    fn append(&mut self, added: Vec<ValueId>) -> Result<(), PickleError> {
        match self.top()? {
            PickleValue::List(values) => values.extend(added),
            _ => return Err(self.impossible("an entry for what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, added: &[ValueId]) -> Result<(), PickleError> {
        let (pairs, rest) = added.as_chunks::<2>();
        match self.top()? {
            PickleValue::Dictionary(values) if rest.is_empty() => {
                values.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            _ => Err(self.impossible("keys and values for what is no dictionary")),
        }
    }

    fn remember(&mut self, slot: u64) -> Result<(), PickleError> {
        let value = *self
            .stack
            .last()
            .ok_or_else(|| self.impossible("nothing to remember"))?;
        self.memo.insert(slot, value);
        self.next_memo = self.next_memo.max(slot.saturating_add(1));
        Ok(())
    }

    fn recall(&mut self, slot: u64) -> Result<(), PickleError> {
        let value = self.memo.get(&slot).copied();
        self.stack
            .push(value.ok_or_else(|| self.impossible("a reference to nothing"))?);
        Ok(())
    }

    fn push(&mut self, value: PickleValue) -> Result<(), PickleError> {
        if self.values.len() == MOST_VALUES {
            return Err(PickleError::TooLarge);
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    /// Takes the last value, but none from before the last mark.
    fn pop(&mut self) -> Result<ValueId, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => Err(self.impossible("a value that is not there")),
        }
    }

    fn pop_marked(&mut self) -> Result<Vec<ValueId>, PickleError> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => Err(self.impossible("a mark that is not there")),
        }
    }

    fn pop_text(&mut self) -> Result<String, PickleError> {
        let id = self.pop()?;
        match &self.values[id] {
            PickleValue::Text(text) => Ok(text.clone()),
            _ => Err(self.impossible("a name that is no text")),
        }
    }

    fn top(&mut self) -> Result<&mut PickleValue, PickleError> {
        let at = self.at;
        match self.stack.last() {
            Some(&id) => Ok(&mut self.values[id]),
            None => Err(PickleError::Impossible {
                what: "a value that is not there",
                at,
            }),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.first_chunk::<N>().ok_or(PickleError::Ends(self.at))?;
        self.at += N;
        Ok(*taken)
    }

    fn text(&mut self, length: u64) -> Result<PickleValue, PickleError> {
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length));
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or(PickleError::Ends(self.at))?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.impossible("a text that is not UTF-8"))?;
        self.at += bytes.len();
        Ok(PickleValue::Text(text.to_owned()))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n');
        let line = rest[..length.ok_or(PickleError::Ends(self.at))?].to_vec();
        self.at += line.len() + 1;
        String::from_utf8(line).map_err(|_| self.impossible("a name that is not UTF-8"))
    }

    /// A whole number of up to eight bytes.
    fn long(&mut self) -> Result<i64, PickleError> {
        let [length] = self.take()?;
        if length > 8 {
            return Err(self.impossible("a whole number of more than 64 bits"));
        }
        let mut magnitude = [0_u8; 8];
        for byte in magnitude.iter_mut().take(length.into()) {
            [*byte] = self.take()?;
        }
        let unused = 64 - 8 * u32::from(length);
        let value = i64::from_le_bytes(magnitude);
        Ok(if length == 0 { 0 } else { (value << unused) >> unused })
    }

    fn impossible(&self, what: &'static str) -> PickleError {
        PickleError::Impossible { what, at: self.at }
    }
}
