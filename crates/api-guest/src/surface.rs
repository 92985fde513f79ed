//! The protocol written down: every number, name and field, made from the definitions themselves.

use std::fmt::Write;

use crate::frames::{Answer, Input, Request};
use crate::message::{ChangeKind, FailCode, FileKind, STRUCTS};
use crate::{AGENT_PORT, FRAME_BYTES_MAX, GENERATION};

/// How the frames of one direction are described.
#[derive(Debug)]
pub(crate) struct FrameSurface {
    pub(crate) number: u8,
    pub(crate) name: &'static str,
    pub(crate) payload: &'static str,
}

/// How a struct is described: its name, and its fields with their types, in wire order.
pub(crate) type StructSurface = (&'static str, &'static [(&'static str, &'static str)]);

/// Defines structs that travel, and how each is described.
macro_rules! structs {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident { $( $(#[$field_meta:meta])* pub $field:ident : $type:ty, )* }
    )*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $( $(#[$field_meta])* pub $field: $type, )* }
        )*
        pub(crate) const STRUCTS: &[$crate::surface::StructSurface] =
            &[ $( (stringify!($name), &[ $( (stringify!($field), stringify!($type)), )* ]), )* ];
    };
}

/// Defines an enum that travels as its variant's position, and how it is described.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$variant_meta:meta])* $variant:ident, )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $( $(#[$variant_meta])* $variant, )* }
        impl $name {
            /// Every variant, in the order of their numbers on the wire.
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];
        }
    };
}

/// Defines the frames of one direction: the enum, its numbers, its codec and how it is described.
/// A variant with fields carries the struct of the same name.
macro_rules! frames {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            fields { $( $(#[$f_meta:meta])* $f:ident = $f_number:literal, )* }
            empty { $( $(#[$e_meta:meta])* $e:ident = $e_number:literal, )* }
            raw { $( $(#[$r_meta:meta])* $r:ident = $r_number:literal, )* }
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $( $(#[$f_meta])* $f($f), )*
            $( $(#[$e_meta])* $e, )*
            $( $(#[$r_meta])* $r(Vec<u8>), )*
        }

        impl $name {
            /// The kind byte of this message's frame.
            pub const fn kind(&self) -> u8 {
                match self {
                    $( Self::$f(_) => $f_number, )*
                    $( Self::$e => $e_number, )*
                    $( Self::$r(_) => $r_number, )*
                }
            }

            /// The name of this message, as the protocol's surface file has it.
            pub const fn name(&self) -> &'static str {
                match self {
                    $( Self::$f(_) => stringify!($f), )*
                    $( Self::$e => stringify!($e), )*
                    $( Self::$r(_) => stringify!($r), )*
                }
            }

            pub(crate) const FRAMES: &[$crate::surface::FrameSurface] = &[
                $( $crate::surface::FrameSurface {
                    number: $f_number, name: stringify!($f), payload: "fields" }, )*
                $( $crate::surface::FrameSurface {
                    number: $e_number, name: stringify!($e), payload: "empty" }, )*
                $( $crate::surface::FrameSurface {
                    number: $r_number, name: stringify!($r), payload: "raw bytes" }, )*
            ];
        }

        impl $crate::codec::Message for $name {
            fn decode(kind: u8, payload: &[u8]) -> Result<Self, $crate::codec::FrameError> {
                match kind {
                    $( $f_number => $crate::codec::fields(kind, payload).map(Self::$f), )*
                    $( $e_number => $crate::codec::nothing(kind, payload).map(|()| Self::$e), )*
                    $( $r_number => Ok(Self::$r(payload.to_vec())), )*
                    other => Err($crate::codec::FrameError::Kind(other)),
                }
            }

            fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), $crate::codec::FrameError> {
                match self {
                    $( Self::$f(message) => $crate::codec::put_fields($f_number, message, out), )*
                    $( Self::$e => $crate::codec::put_raw($e_number, &[], out), )*
                    $( Self::$r(data) => $crate::codec::put_raw($r_number, data, out), )*
                }
            }
        }
    };
}

pub(crate) use {choices, frames, structs};

/// The whole protocol as text: what `wire/guest-1.txt` holds.
pub fn surface() -> String {
    let mut text = format!(
        "generation {GENERATION}\nvsock port {AGENT_PORT}\n\
         frame: u32 little endian length (1 to {FRAME_BYTES_MAX}), u8 kind, payload\n"
    );
    let mut put = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for (direction, frames) in [
        ("Request, host to guest, first frame", Request::FRAMES),
        ("Input, host to guest, later frames", Input::FRAMES),
        ("Answer, guest to host", Answer::FRAMES),
    ] {
        put(format!("\n{direction}"));
        let mut frames: Vec<_> = frames.iter().collect();
        frames.sort_by_key(|frame| frame.number);
        for frame in frames {
            let mut line = format!("  {:3} {}", frame.number, frame.name);
            match STRUCTS.iter().find(|(name, _)| *name == frame.name) {
                Some((_, fields)) if frame.payload == "fields" => describe(&mut line, fields),
                _ => line.extend([": ", frame.payload]),
            }
            put(line);
        }
    }
    put("\nParts".to_owned());
    let is_frame = |name: &str| {
        [Request::FRAMES, Input::FRAMES, Answer::FRAMES]
            .iter()
            .any(|frames| frames.iter().any(|frame| frame.name == name))
    };
    for (name, fields) in STRUCTS.iter().filter(|(name, _)| !is_frame(name)) {
        let mut line = format!("  {name}");
        describe(&mut line, fields);
        put(line);
    }
    put("\nFailCode".to_owned());
    for (number, code) in FailCode::ALL.iter().enumerate() {
        put(format!("  {number:3} {code:?}"));
    }
    put("\nFileKind".to_owned());
    for (number, kind) in FileKind::ALL.iter().enumerate() {
        put(format!("  {number:3} {kind:?}"));
    }
    put("\nChangeKind".to_owned());
    for (number, kind) in ChangeKind::ALL.iter().enumerate() {
        put(format!("  {number:3} {kind:?}"));
    }
    text
}

fn describe(line: &mut String, fields: &[(&str, &str)]) {
    line.push_str(" {");
    for (position, (field, kind)) in fields.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(line, "{comma} {field}: {kind}");
    }
    line.push_str(" }");
}
