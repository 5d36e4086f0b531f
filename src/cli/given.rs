//! A group of options that knows whether any of it stands on the command line, defaults or not.

use std::ops::Deref;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches};

/// Options of `T`, as `#[command(flatten)]` takes them.
#[derive(Debug)]
pub struct Given<T> {
    options: T,
    first: Option<String>,
}

impl<T> Given<T> {
    /// The first option, in the order of the help, that the user wrote: `--steps`.
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }
}

impl<T> Deref for Given<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.options
    }
}

impl<T: clap::Args> clap::Args for Given<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: clap::Args> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let group = T::augment_args(Command::new("group"));
        let written = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let first = group.get_arguments().find(|option| written(option.get_id().as_str()));
        Ok(Given {
            first: first.and_then(|option| Some(format!("--{}", option.get_long()?))),
            options: T::from_arg_matches(matches)?,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Args)]
    struct Group {
        #[arg(long, default_value_t = 50)]
        steps: usize,
        #[arg(long)]
        whole: bool,
    }

    #[derive(Debug, Parser)]
    struct Program {
        #[arg(long)]
        other: bool,
        #[command(flatten)]
        group: Given<Group>,
    }

    #[test]
    fn a_default_that_was_written_counts_as_written() {
        let first = |line: &[&str]| {
            let program = Program::parse_from([&["p"], line].concat());
            (
                program.group.first().map(str::to_owned),
                program.group.steps,
                program.group.whole,
                program.other,
            )
        };
        assert_eq!(first(&["--other"]), (None, 50, false, true));
        assert_eq!(first(&["--steps", "50"]), (Some("--steps".into()), 50, false, false));
        assert_eq!(first(&["--whole", "--steps", "2"]), (Some("--steps".into()), 2, true, false));
        assert_eq!(first(&["--whole"]), (Some("--whole".into()), 50, true, false));
    }
}
