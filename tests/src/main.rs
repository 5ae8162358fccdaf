use std::process::ExitCode;

fn main() -> ExitCode {
    // Called by the agent's name it is the agent, as it was compiled with this: the API server suite runs it so.
    if std::env::args_os().next().is_some_and(|name| name == "nvme-agent") {
        return nvme_agent::cli::run();
    }
    match lab::cli::main() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
