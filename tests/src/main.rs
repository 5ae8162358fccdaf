use std::process::ExitCode;

fn main() -> ExitCode {
    // Called by the agent's name it is the agent, as it was compiled with this: the API server suite runs it so.
    if std::env::args_os().next().is_some_and(|name| name == "nvme-agent") {
        return nvme_agent::cli::run();
    }
    // Pushed into a guest, it stands in for nodeadm; there and beside QEMU, for what a node fetches from.
    let called = std::env::args_os().next().map(std::path::PathBuf::from).unwrap_or_default();
    let main = match called.file_name().and_then(|name| name.to_str()) {
        Some("nodeadm") => lab::nodeadm::main,
        Some(lab::web::NAME) => lab::web::main,
        _ => lab::cli::main,
    };
    match main() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
