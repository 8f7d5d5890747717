//! `impasto serve`: the server, its settings and its signals.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use impasto::checkpoint::EMBEDDED_NAME;
use impasto::families::ModelFiles;
use impasto::safety::Mode;
use impasto_server::{Keys, LogOptions, ServeOptions, Server};

use super::pull;
use crate::arguments::{DeviceFlags, data_folder, find_model};
use crate::failure::Usage;
use crate::provenance::ProvenanceFlags;
use crate::safety::SafetyFlags;
use crate::terminal;

/// Draw for a browser and for programs: a page, OpenAI's images API, AUTOMATIC1111's, and a native one
///
/// Open the address that is printed. Jobs and pictures are kept in the data folder: what was queued when the server
/// ended is drawn when it starts again. Ctrl-C finishes what runs; a second one ends at once.
#[derive(Args)]
pub struct Arguments {
    /// Models by their names or folders; requests that name none get the first [default: the embedded one]
    #[arg(value_name = "NAME|DIR")]
    models: Vec<String>,
    /// The address to listen on; one that other machines reach needs --api-key-file
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The port; 0 takes one that is free
    #[arg(long, default_value_t = 7860)]
    port: u16,
    /// The folder of jobs and pictures [default: impasto in the user's folder of data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A file of hashes of API keys; clients then need one of the keys
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Make a key for this name, add its hash to --api-key-file, print the key, and serve nothing
    #[arg(long, value_name = "NAME", requires = "api_key_file")]
    add_api_key: Option<String>,
    /// Listen beyond this machine without keys: whoever reaches the address can use it and see all pictures
    #[arg(long)]
    insecure: bool,
    /// A name under which browsers may reach the server, besides addresses and localhost
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Jobs that may wait or run at once; further ones are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_queue: u32,
    /// Let clients ask for enlarged pictures (`upscale`, or a larger `size`): name of a pulled upscaler, or its file
    #[arg(long, value_name = "NAME|FILE")]
    upscaler: Option<String>,
    /// Close a model after this many seconds without work
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    idle_time: u64,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
    /// Log JSON lines
    #[arg(long)]
    log_json: bool,
    /// Log failures alone
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    provenance: ProvenanceFlags,
    #[command(flatten)]
    safety: SafetyFlags,
    #[command(flatten)]
    device: DeviceFlags,
}

/// Serves until it is stopped.
pub fn run(arguments: Arguments) -> Result<()> {
    if let (Some(name), Some(path)) = (&arguments.add_api_key, &arguments.api_key_file) {
        return terminal::result(Keys::add(path, name)?);
    }
    if !arguments.host.is_loopback() && arguments.api_key_file.is_none() && !arguments.insecure {
        return Err(Usage::new(
            format!("--host {} lets other machines use the server", arguments.host),
            "make a key with --api-key-file FILE --add-api-key NAME and pass --api-key-file FILE, or pass --insecure",
        )
        .into());
    }
    let names = match arguments.models.is_empty() {
        true => &[EMBEDDED_NAME.to_owned()][..],
        false => &arguments.models,
    };
    let mut models = Vec::with_capacity(names.len());
    for name in names {
        models.push(ModelFiles::find(&find_model(name)?)?);
    }
    // Who serves others answers for what is drawn: refused, unless a flag or a file says otherwise.
    let policy = arguments.safety.policy(Mode::Refuse)?;
    let device = arguments.device.select()?;
    let data = match arguments.data {
        Some(data) => data,
        None => data_folder()?,
    };
    let options = ServeOptions {
        host: arguments.host,
        port: arguments.port,
        api_key_file: arguments.api_key_file,
        insecure: arguments.insecure,
        max_queue: arguments.max_queue as usize,
        allowed_hosts: arguments.allow_host,
        upscaler: arguments.upscaler.as_deref().map(find_model).transpose()?,
        idle_time: Duration::from_secs(arguments.idle_time),
        log: LogOptions {
            json: arguments.log_json,
            quiet: arguments.quiet,
        },
        provenance: arguments.provenance.policy()?,
        safety: policy,
        cache: pull::default_cache().ok(),
        ..ServeOptions::new(data)
    };
    if options.insecure && options.api_key_file.is_none() && !options.host.is_loopback() {
        terminal::note(
            "note: --insecure: everybody who reaches this address can draw, and see and delete all pictures",
        );
    }
    let server = Server::open(options, models, device)?;
    terminal::catch_interrupts()?;
    let open = arguments.open;
    let ready = |address: SocketAddr| {
        let page = page_of(address);
        // Programs that start the server read the address here. Where nobody does, it serves all the same.
        let _ = terminal::result(&page);
        if open && let Err(error) = open_browser(&page) {
            terminal::note(format_args!("note: the browser can't be opened: {error}"));
        }
    };
    Ok(server.run(ready, &terminal::stop_requested)?)
}

/// The address of the page: one that a browser on this machine can open.
fn page_of(address: SocketAddr) -> String {
    let port = address.port();
    match address.ip() {
        ip if ip.is_unspecified() => format!("http://localhost:{port}/"),
        ip => format!("http://{}/", SocketAddr::new(ip, port)),
    }
}

fn open_browser(page: &str) -> std::io::Result<()> {
    let mut command = if cfg!(target_os = "macos") {
        Command::new("open")
    } else if cfg!(windows) {
        Command::new("explorer")
    } else {
        Command::new("xdg-open")
    };
    command
        .arg(page)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(drop)
}
