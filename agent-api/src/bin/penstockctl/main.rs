//! `penstockctl`: the command line. Asks a running penstockd, or judges a folder of manifests offline.
//!
//! * `arguments`: what may be typed.
//! * `answer`: how an answer or a fault is printed, for people and as JSON.
//! * `running`: commands that ask penstockd. `explain`: one of them, with its five-tuples; `story`: why.
//! * `hits`: how often each rule has decided.
//! * `analysis`: what a change changes, who reaches whom, what is wrong, over manifests or the running state.
//! * `shadow`: a candidate beside the running state.
//! * `offline`: commands over manifests. `simulate`: hands them to `penstockd simulate`.

mod analysis;
mod answer;
mod arguments;
mod explain;
mod hits;
mod offline;
mod running;
mod shadow;
mod simulate;
mod story;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use answer::{Answer, Fault, Output};
use arguments::{Cli, Command, PolicyCommand};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let output = cli.output;
    let result = match cli.run().await {
        Ok(answer) => answer.print(output),
        Err(fault) => Err(fault),
    };
    result.unwrap_or_else(|fault| fault.print(output))
}

impl Cli {
    async fn run(self) -> Result<Answer, Fault> {
        let Cli { connection, output, command } = self;
        match command {
            Command::Apply(arguments) => running::apply(&connection, &arguments).await,
            Command::Status => running::status(&connection).await,
            Command::Stats => running::stats(&connection).await,
            Command::Drops { follow: false } => running::drops(&connection).await,
            Command::Drops { follow: true } => running::follow_drops(&connection, output).await,
            Command::Ports { command } => running::ports(&connection, command).await,
            Command::Flows { limit } => running::flows(&connection, limit).await,
            Command::Services => running::services(&connection).await,
            Command::Shadow { command } => shadow::shadow(&connection, command, output).await,
            Command::Explain(arguments) => explain::explain(&connection, &arguments).await,
            Command::Policy(PolicyCommand::Check { manifests, node }) => {
                offline::policy_check(&manifests, node.as_deref())
            }
            Command::Policy(PolicyCommand::Matrix(arguments)) => offline::policy_matrix(&arguments),
            Command::Policy(PolicyCommand::Diff { old, new }) => {
                analysis::diff(&connection, &old, &new).await
            }
            Command::Policy(PolicyCommand::WhoCanReach(arguments)) => {
                analysis::who_can_reach(&connection, &arguments).await
            }
            Command::Policy(PolicyCommand::Hits(arguments)) => hits::hits(&connection, &arguments).await,
            Command::Policy(PolicyCommand::Lint { folder }) => analysis::lint(&folder),
            Command::Evaluate(arguments) => offline::evaluate(&arguments),
            Command::Simulate(arguments) => simulate::simulate(&arguments, output),
        }
    }
}

/// Help and version are answers; anything else is wrong usage, in JSON where the arguments ask for it.
fn misused(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) || !wants_json() {
        // There is nobody to tell that printing failed.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(answer::USAGE));
    }
    let text = error.render().to_string();
    let problem = text.lines().next().unwrap_or_default();
    Fault::usage("arguments", problem.strip_prefix("error: ").unwrap_or(problem)).print(Output::Json)
}

/// Whether the arguments, which could not be parsed, contain `-o json` in any of its forms.
fn wants_json() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let one = |argument: &str| ["-ojson", "-o=json", "--output=json"].contains(&argument);
    let two = |pair: &[String]| matches!(pair, [name, value] if (name == "-o" || name == "--output") && value == "json");
    arguments.iter().any(|argument| one(argument)) || arguments.windows(2).any(two)
}
