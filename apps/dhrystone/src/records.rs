//! The types of the benchmark: enumeration, strings, records with variants, and what stands for a heap.

/// The enumeration type; C numbers it from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enumeration {
    /// 0.
    Ident1,
    /// 1.
    Ident2,
    /// 2.
    Ident3,
    /// 3.
    Ident4,
    /// 4.
    Ident5,
}

/// A string of 30 characters, without the null byte that C appends.
pub type Str30 = [u8; 30];

/// What the first variant of a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var1 {
    /// Enum_Comp.
    pub enum_comp: Enumeration,
    /// Int_Comp.
    pub int_comp: i32,
    /// Str_Comp.
    pub str_comp: Str30,
}

/// The variant part of a record. Its tag is the published Discr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Discr is Ident_1; the only variant that the benchmark uses.
    Var1(Var1),
    /// Discr is Ident_2.
    Var2 {
        /// E_Comp_2.
        e_comp_2: Enumeration,
        /// Str_2_Comp.
        str_2_comp: Str30,
    },
    /// Discr is Ident_3.
    Var3 {
        /// Ch_1_Comp.
        ch_1_comp: u8,
        /// Ch_2_Comp.
        ch_2_comp: u8,
    },
}

/// Names one of the two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// The record allocated first: `Next_Ptr_Glob` points at it.
    First,
    /// The record allocated second: `Ptr_Glob` points at it.
    Second,
}

/// A pointer to a record; `None` is null.
pub type Pointer = Option<Address>;

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Ptr_Comp.
    pub ptr_comp: Pointer,
    /// The components that depend on Discr.
    pub variant: Variant,
}

impl Record {
    /// Discr.
    pub fn discr(&self) -> Enumeration {
        match self.variant {
            Variant::Var1(_) => Enumeration::Ident1,
            Variant::Var2 { .. } => Enumeration::Ident2,
            Variant::Var3 { .. } => Enumeration::Ident3,
        }
    }

    /// The components of the first variant. With another it panics, where Ada raises a constraint error and C reads
    /// whatever is there.
    pub fn var_1(&self) -> &Var1 {
        match &self.variant {
            Variant::Var1(components) => components,
            other => panic!("a component of the first variant of {other:?}"),
        }
    }

    /// [`var_1`](Self::var_1), to be changed.
    pub fn var_1_mut(&mut self) -> &mut Var1 {
        match &mut self.variant {
            Variant::Var1(components) => components,
            other => panic!("a component of the first variant of {other:?}"),
        }
    }
}

/// The two records that the benchmark allocates.
#[derive(Debug)]
pub struct Heap {
    records: [Record; 2],
}

impl Heap {
    /// Both records alike.
    pub fn new(record: Record) -> Self {
        Self { records: [record; 2] }
    }

    /// The record that `pointer` points at. It panics at null, as an access check would in Ada.
    pub fn at(&self, pointer: Pointer) -> &Record {
        &self.records[index(pointer)]
    }

    /// [`at`](Self::at), to be changed.
    pub fn at_mut(&mut self, pointer: Pointer) -> &mut Record {
        &mut self.records[index(pointer)]
    }
}

fn index(pointer: Pointer) -> usize {
    pointer.expect("a null pointer was followed") as usize
}
