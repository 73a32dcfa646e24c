//! The tables of a format's document, which tests hold against the code.

/// A document's text.
pub(crate) struct Document(pub(crate) &'static str);

impl Document {
    /// The cells of the rows of the first table below a heading.
    pub(crate) fn table(&self, heading: &str) -> Vec<Vec<String>> {
        let after = self
            .0
            .split_once(&format!("\n## {heading}"))
            .unwrap_or_else(|| panic!("no heading {heading}"))
            .1;
        let section = after.split("\n## ").next().unwrap();
        let rows = section
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'));
        let cells = |row: &str| {
            row.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        };
        let rows: Vec<Vec<String>> = rows.skip(2).map(cells).collect();
        assert!(!rows.is_empty(), "no table below {heading}");
        rows
    }

    /// Name, offset and size of the fields of a struct.
    pub(crate) fn fields(&self, heading: &str) -> Vec<(String, usize, usize)> {
        let number = |cell: &str| {
            cell.parse()
                .unwrap_or_else(|_| panic!("{heading}: '{cell}' is no number"))
        };
        self.table(heading)
            .iter()
            .map(|row| (row[2].clone(), number(&row[0]), number(&row[1])))
            .collect()
    }

    /// Reads the table `Numbers`.
    pub(crate) fn numbers(&self) -> std::collections::BTreeMap<String, u64> {
        self.table("Numbers")
            .into_iter()
            .map(|row| (row[0].clone(), row[1].parse().unwrap()))
            .collect()
    }
}

/// Name, offset and size of the fields of a struct, of which there are no others.
macro_rules! fields {
    ($kind:ident: $($field:ident)*) => {{
        let starts = [$((stringify!($field), std::mem::offset_of!($kind, $field))),*];
        // Does not compile when a field is missing.
        let _all = |value: $kind| { let $kind { $($field: _),* } = value; };
        let size_bytes = std::mem::size_of::<$kind>();
        let ends = starts.iter().skip(1).map(|(_, offset)| *offset).chain([size_bytes]);
        starts
            .iter()
            .zip(ends)
            .map(|((name, at), end)| (name.to_string(), *at, end - at))
            .collect::<Vec<_>>()
    }};
}
pub(crate) use fields;
