//! Building one XML document, elements only.
//!
//! Guarantees: text is escaped, every element is closed.

use std::fmt::Display;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

/// Namespace of every EC2 reply.
const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

pub(super) struct Xml {
    writer: Writer<Vec<u8>>,
}

impl Xml {
    /// A whole document with the root element `root`.
    pub(super) fn document(
        root: &str,
        attributes: Namespace,
        content: impl FnOnce(&mut Self),
    ) -> String {
        let mut xml = Self {
            writer: Writer::new(Vec::new()),
        };
        xml.event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
        let mut start = BytesStart::new(root);
        if attributes == Namespace::Ec2 {
            start.push_attribute(("xmlns", NAMESPACE));
        }
        xml.event(Event::Start(start));
        content(&mut xml);
        xml.event(Event::End(BytesEnd::new(root)));
        String::from_utf8_lossy(&xml.writer.into_inner()).into_owned()
    }

    /// `<name>...</name>`
    pub(super) fn node(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.event(Event::Start(BytesStart::new(name)));
        content(self);
        self.event(Event::End(BytesEnd::new(name)));
    }

    /// `<name>value</name>`
    pub(super) fn text(&mut self, name: &str, value: impl Display) {
        let value = value.to_string();
        self.node(name, |xml| xml.event(Event::Text(BytesText::new(&value))));
    }

    /// `<name><item>...</item>...</name>`
    pub(super) fn set<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        each: impl Fn(&mut Self, T),
    ) {
        self.node(name, |xml| {
            for item in items {
                xml.node("item", |xml| each(xml, item));
            }
        });
    }

    #[expect(clippy::expect_used, reason = "writing to a Vec cannot fail")]
    fn event(&mut self, event: Event<'_>) {
        self.writer
            .write_event(event)
            .expect("writing to a Vec cannot fail");
    }
}

/// Whether the root names the EC2 namespace; error replies do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespace {
    Ec2,
    None,
}
