use std::process::ExitCode;

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let lab = lab::lab::Lab::open()?;
        println!("{}", lab.qemu.version);
        lab::snapshot::Snapshot::get(&lab, lab::image::Guest::Trixie)?;
        Ok(())
    };
    match run() { Ok(()) => ExitCode::SUCCESS, Err(e) => { eprintln!("{e:#}"); ExitCode::FAILURE } }
}
