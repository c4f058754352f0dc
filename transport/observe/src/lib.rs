//! What a process tells of its target and its host while they work.
//!
//! What comes in: the factory of the transports that a program installs. What goes out: their figures as Prometheus
//! reads them ([`Observer::metrics`]), what they do now as plain data ([`Observer::page`]), and a small HTTP server for
//! both ([`Exporter`]), for programs that have none of their own. May use `engine`, `nvmeof`, `target-setup` and `io`.
//!
//! Nothing here counts. Figures are read where they are kept, when somebody asks; so a reader, however slow, costs the
//! data path nothing.
//!
//! - `families`: figures as metric families. `target`, `host`: which ones there are.
//! - [`page`]: the status page.
//! - [`server`]: the HTTP server.

mod families;
mod host;
pub mod page;
pub mod server;
mod target;

pub use page::Page;
pub use server::{Exporter, ExporterError, ExporterSocket};

use families::Families;
use nvferry_nvmeof::NvmeofFactory;
use nvferry_target::TargetStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// The media type of [`Observer::metrics`]' text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Looks at the transports that a factory made.
#[derive(Debug, Clone)]
pub struct Observer {
    factory: NvmeofFactory,
    registry: Arc<Registry>,
}

impl Observer {
    /// Looks at all transports that this factory made and will make.
    #[must_use]
    pub fn new(factory: NvmeofFactory) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Figures(factory.clone())));
        Self { factory, registry: Arc::new(registry) }
    }

    /// All figures as text, in the format [`CONTENT_TYPE`].
    ///
    /// ```
    /// let factory = nvferry_nvmeof::factory(nvferry_nvmeof::NvmeofOptions::new());
    /// let observer = nvferry_observe::Observer::new(factory);
    /// // Of a transport that was never installed there is nothing to tell.
    /// assert!(observer.metrics().ends_with("# EOF\n"));
    /// ```
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    /// What they do now.
    #[must_use]
    pub fn page(&self) -> Page {
        let transports = self.factory.installed();
        let targets: Vec<_> = transports.iter().filter_map(|transport| transport.target()).collect();
        let hosts: Vec<_> = transports.iter().map(|transport| transport.status()).collect();
        Page::new(&targets.iter().map(|target| target.status()).collect::<Vec<_>>(), &hosts)
    }
}

/// All figures, read when asked for.
#[derive(Debug)]
struct Figures(NvmeofFactory);

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let transports = self.0.installed();
        let targets: Vec<TargetStatus> =
            transports.iter().filter_map(|transport| transport.target()).map(|target| target.status()).collect();
        let mut families = Families(encoder);
        target::encode(&mut families, &targets)?;
        // A transport that never reached for a segment has no host side.
        let hosts: Vec<_> =
            transports.iter().map(|transport| transport.status()).filter(|status| status.workers > 0).collect();
        host::encode(&mut families, &hosts)
    }
}
