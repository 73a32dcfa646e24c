use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::EnvFilter;

use super::super::limit::Limited;
use super::super::subscriber;
use super::*;

#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines_of(filter: &str, with_target: bool, events: impl FnOnce()) -> String {
    let out = Out::default();
    let writer = out.clone();
    let subscriber = subscriber(
        EnvFilter::new(filter),
        Limited::new(MessageLine::new(with_target), false),
        move || writer.clone(),
    );
    tracing::subscriber::with_default(subscriber, events);
    String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn a_log_line_looks_like_a_message() {
    let lines = lines_of("trace", false, || {
        let error = io::Error::from_raw_os_error(13);
        tracing::error!(%error, "cannot see a disk");
        tracing::warn!(slot = 1, block_count = 7, "replaced");
        tracing::info!("opened the pool {} in {} ms", "/p", 3);
        tracing::debug!(pid = 7, "details");
    });
    assert_eq!(
        lines,
        "nvvmm: error: cannot see a disk: Permission denied\n\
         nvvmm: warning: replaced (slot 1, block count 7)\n\
         nvvmm: opened the pool /p in 3 ms\n\
         nvvmm: details (pid 7)\n"
    );
}

#[test]
fn the_module_is_named_where_that_is_wanted_and_filters_hold() {
    let lines = lines_of("info", true, || {
        tracing::info!("a step");
        tracing::debug!("a detail");
    });
    let module = module_path!();
    assert_eq!(lines, format!("nvvmm: {module}: a step\n"));
}
