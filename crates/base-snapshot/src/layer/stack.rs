use super::reader::{Layer, LayerReadError, Page};
use super::{CHUNK_BYTES, LayerKind};
use crate::PAGE_BYTES;

/// Why layers do not stack.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StackError {
    /// Two layers are for memories of different size.
    #[error("memory layer {layer} is for {found} pages, the one above it for {expected}")]
    MemorySize {
        /// Counted from the top, 0.
        layer: usize,
        /// Pages of this layer's machine.
        found: u64,
        /// Pages of the machine of the layers above.
        expected: u64,
    },
    /// A base layer would hide what is under it.
    #[error("memory layer {0} is a base layer and is not the lowest")]
    BaseInside(usize),
}

/// Where the content of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the file of a layer.
    Layer {
        /// Index in [`Stack::layers`].
        layer: usize,
        /// In bytes, page aligned.
        offset: u64,
    },
    /// It is zero.
    Zero,
    /// No layer mentions it, and none is a base: it is in whatever lies below the stack.
    Below,
}

/// Verified content of some pages around one that was asked for. The page is always among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved<'b> {
    /// Their content: at most [`CHUNK_PAGES`](super::CHUNK_PAGES) pages.
    Data {
        /// First page.
        first_page: u64,
        /// Whole pages.
        bytes: &'b [u8],
    },
    /// They are zero.
    Zero {
        /// First page.
        first_page: u64,
        /// How many; can be far more than a caller wants.
        pages: u64,
    },
    /// They are in whatever lies below the stack.
    Below {
        /// First page.
        first_page: u64,
        /// How many; can be far more than a caller wants.
        pages: u64,
    },
}

/// Layers on top of each other, top first.
#[derive(Debug)]
pub struct Stack {
    layers: Vec<Layer>,
}

impl Stack {
    /// Stacks `layers`, top first. Only the lowest may be a base layer; without one, the stack lies
    /// over something else, such as a template's memfd. No layers at all are fine.
    pub fn new(layers: Vec<Layer>) -> Result<Self, StackError> {
        for (at, pair) in layers.windows(2).enumerate() {
            let [above, below] = pair else { continue };
            if above.kind() == LayerKind::Base {
                return Err(StackError::BaseInside(at));
            }
            if above.total_pages() != below.total_pages() {
                return Err(StackError::MemorySize {
                    layer: at + 1,
                    found: below.total_pages(),
                    expected: above.total_pages(),
                });
            }
        }
        Ok(Self { layers })
    }

    /// The layers, top first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Where the content of `page` is. O(layers × log extents).
    pub fn lookup(&self, page: u64) -> Source {
        self.layers
            .iter()
            .enumerate()
            .find_map(|(layer, file)| match file.lookup(page)? {
                Page::Data { offset } => Some(Source::Layer { layer, offset }),
                Page::Zero => Some(Source::Zero),
            })
            .unwrap_or(self.unmentioned())
    }

    /// Content of `page` and of the pages around it that come from the same place, verified. Reads at
    /// most one chunk, into `buf`.
    ///
    /// A page outside the memory comes back as [`Resolved::Below`] or [`Resolved::Zero`] with itself
    /// alone.
    pub fn resolve<'b>(
        &self,
        page: u64,
        buf: &'b mut [u8; CHUNK_BYTES],
    ) -> Result<Resolved<'b>, LayerReadError> {
        let mut range = 0..u64::MAX;
        let mut place = None;
        for layer in &self.layers {
            let (content, around) = layer.surroundings(page);
            range = range.start.max(around.start)..range.end.min(around.end);
            if let Some(content) = content {
                place = Some((layer, content));
                break;
            }
        }
        if !range.contains(&page) {
            range = page..page.saturating_add(1);
        }
        let (first_page, pages) = (range.start, range.end - range.start);
        match place {
            Some((layer, Page::Data { .. })) => {
                let (chunk_first, bytes) = layer.chunk(page, buf)?;
                // The range is within the chunk, which is within the buffer.
                let start = (first_page - chunk_first) as usize * PAGE_BYTES;
                let bytes = &bytes[start..start + pages as usize * PAGE_BYTES];
                Ok(Resolved::Data { first_page, bytes })
            }
            Some((_, Page::Zero)) => Ok(Resolved::Zero { first_page, pages }),
            None if self.unmentioned() == Source::Zero => Ok(Resolved::Zero { first_page, pages }),
            None => Ok(Resolved::Below { first_page, pages }),
        }
    }

    fn unmentioned(&self) -> Source {
        match self.layers.last().map(Layer::kind) {
            Some(LayerKind::Base) => Source::Zero,
            Some(LayerKind::Diff) | None => Source::Below,
        }
    }
}
