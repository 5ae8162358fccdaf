//! `nvme-agent plan`: what setup would do.

use anyhow::Result;

use super::args::ConfigArgs;
use super::{Context, Format, output};
use crate::error::Error;
use crate::plan::Plan;

/// Print the steps that setup would take; change nothing
///
/// With setup's flags, to see what they would lead to. Needs root to read the drives.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    let config = context.load(&args.config.overrides())?;
    // Else every drive would seem to be failing.
    context.require_root("plan")?;
    match (crate::setup::plan(&context.root, &config), args.output) {
        (Ok(plan), Format::Text) => output::text(&text(&plan))?,
        (Ok(plan), Format::Json) => output::json(&plan)?,
        (Err(Error::Refused(refusal)), Format::Json) => {
            // Programs find the refusal where they look for the plan; the exit code tells them apart.
            output::json(&serde_json::json!({ "refusal": refusal }))?;
            return Err(Error::Refused(refusal).into());
        }
        (Err(error), _) => return Err(error.into()),
    }
    Ok(0)
}

fn text(plan: &Plan) -> String {
    let word = serde_json::to_value(plan.outcome)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default();
    let mut text = match (plan.steps.len(), plan.look_again) {
        (0, _) => format!("{word}: nothing to do\n"),
        (1, _) => format!("{word}: 1 step\n"),
        (n, _) => format!("{word}: {n} steps\n"),
    };
    for (n, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("{:>3}. {:<18} {step}\n", n + 1, step.name()));
    }
    if plan.look_again {
        text.push_str("     then look at what is on the array, and plan again\n");
    }
    for note in &plan.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    for problem in &plan.problems {
        text.push_str(&format!("degraded: {problem}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Outcome, Step};

    #[test]
    fn text_shows_every_step_in_order_by_name_and_in_words() {
        let steps = vec![Step::CreateTarget { path: "/data".into() }, Step::ReloadSystemd];
        let notes = vec!["3 files get hidden".into()];
        let problems = vec!["/etc/fstab: line 3 is malformed".into()];
        let plan = Plan { look_again: true, notes, problems, ..Plan::of(Outcome::Create, steps) };
        insta::assert_snapshot!(text(&plan), @r"
        create: 2 steps
          1. create-target      make the directory /data
          2. reload-systemd     have systemd read fstab again
             then look at what is on the array, and plan again
        note: 3 files get hidden
        degraded: /etc/fstab: line 3 is malformed
        ");
        assert_eq!(text(&Plan::of(Outcome::Keep, vec![])), "keep: nothing to do\n");
    }
}
