//! Manual pages and shell completions, made from the very command line definition that the agent parses with, so that
//! they cannot say anything else. Section 8: only root can use most of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{Generator, Shell};
use clap_mangen::Man;

const SECTION: &str = "8";

/// Writes `man/` and `completions/` under `dist`, removes what is left there of commands that are no more, and returns
/// the number of files.
pub fn write(mut command: Command, dist: &Path) -> Result<usize> {
    let completions = [Shell::Bash, Shell::Zsh, Shell::Fish].map(|shell| {
        let name = command.get_name().to_owned();
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, name.as_str(), &mut text);
        (PathBuf::from(shell.file_name(&name)), text)
    });
    // Building gives subcommands their full names (nvme-agent-setup); `help` needs no page of its own.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    manual_pages(&command, &mut pages)?;
    Ok(replace(&dist.join("man"), &pages)? + replace(&dist.join("completions"), &completions)?)
}

fn manual_pages(command: &Command, pages: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    let page = Man::new(command.clone()).section(SECTION).manual("nvme-agent");
    let mut text = Vec::new();
    page.render(&mut text).with_context(|| format!("manual page of {}", command.get_name()))?;
    pages.push((PathBuf::from(page.get_filename()), text));
    for child in command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help")
    {
        manual_pages(child, pages)?;
    }
    Ok(())
}

/// Makes `dir` hold exactly these files.
fn replace(dir: &Path, files: &[(PathBuf, Vec<u8>)]) -> Result<usize> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let wanted: BTreeSet<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
        if !wanted.contains(&path) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new("nvme-agent")
            .version("1.2.3")
            .about("Makes the drives one filesystem")
            .subcommand(Command::new("setup").about("Do it").arg(clap::Arg::new("root").long("root")))
            .subcommand(Command::new("secret").hide(true))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_page_per_command_and_three_shells() {
        let dir = std::env::temp_dir().join(format!("lab-manual-{}", std::process::id()));
        fs::create_dir_all(dir.join("man")).unwrap();
        fs::write(dir.join("man/nvme-agent-gone.8"), "").unwrap();
        assert_eq!(write(command(), &dir).unwrap(), 5);
        assert_eq!(names(&dir.join("man")), ["nvme-agent-setup.8", "nvme-agent.8"]);
        assert_eq!(names(&dir.join("completions")), ["_nvme-agent", "nvme-agent.bash", "nvme-agent.fish"]);
        let page = fs::read_to_string(dir.join("man/nvme-agent.8")).unwrap();
        assert!(page.contains(".TH nvme-agent 8"), "{page}");
        assert!(page.contains("nvme\\-agent\\-setup(8)"), "{page}");
        assert!(!page.contains("secret"), "{page}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
