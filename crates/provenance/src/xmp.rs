//! XMP: a packet that says how a picture came to be, and what packets of others say of it.
//!
//! Sources: XMP part 1 (Adobe, 2012) 7; IPTC Photo Metadata Standard 2024.1, "Digital Source Type"; GB 45438-2025, annex E
//! and TC260-PG-20258A for the label `AIGC`, whose value is JSON in one property.

use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use serde::{Deserialize, Serialize};

const IPTC: &str = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/";
const XMP: &str = "http://ns.adobe.com/xap/1.0/";
const RIGHTS: &str = "http://ns.adobe.com/xap/1.0/rights/";
const TC260: &str = "http://www.tc260.org.cn/ns/AIGC/1.0/";
/// Longer values are not read.
const MOST: usize = 1 << 16;

/// How a picture came to be: terms of IPTC's list `digitalsourcetype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceType {
    /// Made by a trained model.
    Generated,
    /// Edited by a trained model: a part is of another source.
    Composite,
}

impl SourceType {
    /// The term's URI.
    pub fn uri(self) -> &'static str {
        match self {
            SourceType::Generated => {
                "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
            }
            SourceType::Composite => {
                "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
            }
        }
    }
}

/// The implicit label of GB 45438-2025.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aigc {
    /// 1: is generated or composed by AI; 2: may be; 3: is suspected to be.
    #[serde(rename = "Label")]
    pub label: String,
    /// The name or code of the provider that generated it.
    #[serde(rename = "ContentProducer")]
    pub content_producer: String,
    /// The provider's unique number of the content.
    #[serde(rename = "ProduceID")]
    pub produce_id: String,
    /// For the provider's own use, such as a signature.
    #[serde(rename = "ReservedCode1")]
    pub reserved_code_1: String,
    /// The name or code of the provider that spreads it.
    #[serde(rename = "ContentPropagator")]
    pub content_propagator: String,
    /// That provider's unique number of the content.
    #[serde(rename = "PropagateID")]
    pub propagate_id: String,
    /// For that provider's own use.
    #[serde(rename = "ReservedCode2")]
    pub reserved_code_2: String,
}

impl Aigc {
    /// The label of generated content. What only a provider that spreads it knows stays empty.
    pub fn generated(producer: &str, id: &str) -> Self {
        Aigc {
            label: "1".into(),
            content_producer: producer.into(),
            produce_id: id.into(),
            reserved_code_1: String::new(),
            content_propagator: String::new(),
            propagate_id: String::new(),
            reserved_code_2: String::new(),
        }
    }
}

/// What a packet says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// A URI of IPTC's list.
    pub digital_source_type: Option<String>,
    /// The program.
    pub creator_tool: Option<String>,
    /// Under what terms the picture may be used: the model's licence, where it forbids something.
    pub usage_terms: Option<String>,
    /// The value of the label `AIGC`, as it stands there.
    pub aigc: Option<String>,
}

fn escaped(text: &str) -> String {
    // XML 1.0 has no way to write other control characters.
    let clean: String = text
        .chars()
        .filter(|&letter| letter >= ' ' || matches!(letter, '\t' | '\n'))
        .collect();
    quick_xml::escape::escape(clean).into_owned()
}

impl Statement {
    /// The packet.
    pub fn packet(&self) -> String {
        let mut properties = String::new();
        let mut property = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                properties.push_str(&format!("<{name}>{}</{name}>", escaped(value)));
            }
        };
        property("Iptc4xmpExt:DigitalSourceType", &self.digital_source_type);
        property("xmp:CreatorTool", &self.creator_tool);
        property("TC260:AIGC", &self.aigc);
        if let Some(terms) = &self.usage_terms {
            properties.push_str(&format!(
                "<xmpRights:UsageTerms><rdf:Alt><rdf:li xml:lang=\"x-default\">{}</rdf:li></rdf:Alt></xmpRights:UsageTerms>",
                escaped(terms)
            ));
        }
        format!(
            "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
             <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\
             <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
             <rdf:Description rdf:about=\"\" xmlns:Iptc4xmpExt=\"{IPTC}\" xmlns:xmp=\"{XMP}\" \
             xmlns:xmpRights=\"{RIGHTS}\" xmlns:TC260=\"{TC260}\">{properties}</rdf:Description>\
             </rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>"
        )
    }

    /// Reads a packet of any program: what is not understood is skipped, and what follows an error is not read.
    pub fn read(packet: &str) -> Self {
        let mut statement = Statement::default();
        let mut reader = NsReader::from_str(packet);
        // The property that is open, and its text.
        let mut open: Option<(usize, Property, String)> = None;
        let mut depth = 0usize;
        while let Ok((namespace, event)) = reader.read_resolved_event() {
            let found = name_of(&namespace, &event);
            match event {
                Event::Start(start) => {
                    depth += 1;
                    statement.attributes(&reader, &start);
                    if let (Some(property), None) = (found, &open) {
                        open = Some((depth, property, String::new()));
                    }
                }
                Event::Empty(start) => statement.attributes(&reader, &start),
                Event::Text(text) => {
                    if let (Some((_, _, value)), Ok(text)) = (&mut open, text.decode()) {
                        value.push_str(&text);
                    }
                }
                Event::CData(text) => {
                    if let (Some((_, _, value)), Ok(text)) = (&mut open, text.decode()) {
                        value.push_str(&text);
                    }
                }
                Event::GeneralRef(reference) => {
                    if let Some((_, _, value)) = &mut open {
                        if let Ok(Some(letter)) = reference.resolve_char_ref() {
                            value.push(letter);
                        } else if let Ok(name) = reference.decode() {
                            value.push_str(
                                quick_xml::escape::resolve_xml_entity(&name).unwrap_or_default(),
                            );
                        }
                    }
                }
                Event::End(_) => {
                    if let Some((_, property, value)) =
                        open.take_if(|(started, _, _)| *started == depth)
                    {
                        statement.set(property, &value);
                    }
                    depth = depth.saturating_sub(1);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        statement
    }

    fn attributes(&mut self, reader: &NsReader<&[u8]>, start: &BytesStart) {
        for attribute in start.attributes().flatten() {
            let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
            if let Some(property) = Property::of(&namespace, name.as_ref())
                && let Ok(value) = attribute.unescape_value()
            {
                self.set(property, &value);
            }
        }
    }

    fn set(&mut self, property: Property, value: &str) {
        let value = value.trim();
        if value.is_empty() || value.len() > MOST {
            return;
        }
        let place = match property {
            Property::SourceType => &mut self.digital_source_type,
            Property::Tool => &mut self.creator_tool,
            Property::Terms => &mut self.usage_terms,
            Property::Aigc => &mut self.aigc,
        };
        place.get_or_insert_with(|| value.to_owned());
    }
}

#[derive(Clone, Copy)]
enum Property {
    SourceType,
    Tool,
    Terms,
    Aigc,
}

impl Property {
    fn of(namespace: &ResolveResult, name: &[u8]) -> Option<Self> {
        let ResolveResult::Bound(namespace) = namespace else {
            return None;
        };
        let namespace = std::str::from_utf8(namespace.0).ok()?;
        match (namespace, name) {
            (IPTC, b"DigitalSourceType" | b"digitalsourcetype") => Some(Property::SourceType),
            (XMP, b"CreatorTool") => Some(Property::Tool),
            (RIGHTS, b"UsageTerms") => Some(Property::Terms),
            (TC260, b"AIGC") => Some(Property::Aigc),
            _ => None,
        }
    }
}

fn name_of(namespace: &ResolveResult, event: &Event) -> Option<Property> {
    match event {
        Event::Start(start) => Property::of(namespace, start.local_name().as_ref()),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_of_others_are_read() {
        let attribute = "<x:xmpmeta xmlns:x='adobe:ns:meta/'><r:RDF xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
            <r:Description xmlns:i='http://iptc.org/std/Iptc4xmpExt/2008-02-29/' i:DigitalSourceType='a&amp;b'/>\
            <r:Description xmlns:T='http://www.tc260.org.cn/ns/AIGC/1.0/'><T:AIGC><![CDATA[{\"Label\":\"1\"}]]></T:AIGC>";
        let read = Statement::read(attribute);
        assert_eq!(read.digital_source_type.as_deref(), Some("a&b"));
        assert_eq!(read.aigc.as_deref(), Some("{\"Label\":\"1\"}"));
        // The same names of another namespace mean something else.
        let other =
            "<a xmlns:i='http://example.com/' i:DigitalSourceType='x'><i:AIGC>y</i:AIGC></a>";
        assert_eq!(Statement::read(other), Statement::default());
    }

    #[test]
    fn the_label_has_the_standard_s_fields_in_its_order() {
        let label = serde_json::to_string(&Aigc::generated("someone", "7")).unwrap();
        assert_eq!(
            label,
            r#"{"Label":"1","ContentProducer":"someone","ProduceID":"7","ReservedCode1":"","ContentPropagator":"","PropagateID":"","ReservedCode2":""}"#
        );
    }

    proptest! {
        #[test]
        fn statements_come_back(kind in "[ -~]{1,30}", tool in "\\PC{1,30}", terms in "\\PC{1,30}", aigc in "\\PC{1,30}") {
            let some = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
            let statement = Statement {
                digital_source_type: some(&kind),
                creator_tool: some(&tool),
                usage_terms: some(&terms),
                aigc: some(&aigc),
            };
            prop_assert_eq!(Statement::read(&statement.packet()), statement);
        }

        #[test]
        fn garbage_never_panics(text in "\\PC{0,80}", at in 0usize..900, with in "[<>&;/\"a:]{1,3}") {
            Statement::read(&text);
            let mut packet = Statement { aigc: Some("x".into()), ..Statement::default() }.packet();
            if packet.is_char_boundary(at) {
                packet.insert_str(at, &with);
            }
            Statement::read(&packet);
        }
    }
}
