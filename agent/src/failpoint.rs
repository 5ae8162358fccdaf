//! Named points at which the lab stops or kills the agent. Nothing of this is in what ships:
//! without the feature `failpoints` the call compiles to nothing.

/// Acts on `FAILPOINTS="name=return(kill)"` (SIGKILL to ourselves), `return(hang)` (say so on stderr and
/// sleep, so that the lab can kill the VM there), `return(say)` (only say so) or `return(error)` (the caller's step
/// fails).
///
/// # Errors
/// Only for `return(error)`: an error that names the failpoint.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) -> std::io::Result<()> {
    static READ: std::sync::Once = std::sync::Once::new();
    // Reads the variable. Dropped, it would forget what it read.
    READ.call_once(|| std::mem::forget(fail::FailScenario::setup()));
    let action = fail::eval(name, |argument| argument.unwrap_or_default());
    match action.as_deref() {
        None => Ok(()),
        Some("kill") => {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            Ok(())
        }
        Some(said @ ("say" | "hang")) => {
            eprintln!("failpoint {name} reached");
            if said == "hang" {
                std::thread::sleep(std::time::Duration::from_secs(3600));
            }
            Ok(())
        }
        Some(_) => Err(std::io::Error::other(format!("failpoint {name}"))),
    }
}

/// See the variant with the feature on.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) -> std::io::Result<()> {
    Ok(())
}
