//! A server inside a program of one's own: the embedded model on any free port, until the program is killed.
//!
//! ```sh
//! cargo run --release -p impasto-server --example embedded -- DATA [KEYS [MAX_QUEUE]]
//! ```

#![allow(clippy::print_stdout)] // what an example is for

use impasto::checkpoint::ModelSource;
use impasto::families::ModelFiles;
use impasto_server::{ServeError, ServeOptions, Server};

fn main() -> Result<(), ServeError> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().unwrap_or_else(|| "data".to_owned());
    let mut options = ServeOptions {
        port: 0,
        api_key_file: arguments.next().map(Into::into),
        ..ServeOptions::new(data.into())
    };
    if let Some(most) = arguments.next().and_then(|text| text.parse().ok()) {
        options.max_queue = most;
    }
    let (device, _) = impasto::device::select("cpu")?;
    let models = vec![ModelFiles::find(&ModelSource::parse("impasto-styles")?)?];
    let server = Server::open(options, models, device)?;
    server.run(|address| println!("http://{address}/"), &|| false)
}
