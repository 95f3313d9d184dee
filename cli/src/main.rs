//! `kissdb`, the command for people.

mod args;
mod check;
mod copy;
mod data;
mod dump;
mod fail;
mod interrupt;
mod map;
mod newfile;
mod out;
mod progress;
mod repair;
mod resource;
mod shm;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use fail::{About, Fail, Result, Status};
use out::Out;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Out::new(cli.json, cli.color);
    let ended = run(cli.command, &mut out).and_then(|status| {
        out.flush()?;
        Ok(status)
    });
    let status = match ended {
        Ok(status) => status,
        // As with `head`: who reads has seen enough.
        Err(Fail::Closed) => Status::Fine,
        Err(Fail::Said(text)) => {
            // What was printed before comes first.
            let _ = out.flush();
            crate::out::complain!("{} {text}", console::style("kissdb:").for_stderr().red());
            Status::Failed
        }
    };
    // What is still buffered is for a reader that has gone.
    std::mem::forget(out);
    ExitCode::from(status as u8)
}

fn run(command: Command, out: &mut Out) -> Result<Status> {
    match command {
        Command::List(a) => data::list(&a, out),
        Command::Get(a) => data::get(&a, out),
        Command::Put(a) => data::put(&a),
        Command::Delete(a) => data::delete(&a, out),
        Command::Dump(a) => dump::dump(&a, out),
        Command::Create(a) => data::create(&a),
        Command::Info(a) => check::info(&a, out),
        Command::Check(a) => check::check(&a, out),
        Command::Load(a) => dump::load(&a),
        Command::Repair(a) => repair::repair(&a, out),
        Command::Diff(a) => copy::diff(&a, out),
        Command::Copy(a) => copy::copy(&a, out),
        Command::Compact(a) => copy::compact(&a, out),
        Command::Map(a) => map::map(&a, out),
        Command::Shm(a) => shm::shm(&a, out),
        Command::Completions(a) => {
            let mut text = Vec::new();
            clap_complete::generate(a.shell, &mut Cli::command(), "kissdb", &mut text);
            out.bytes(&text)?;
            Ok(Status::Fine)
        }
        Command::Man(a) => {
            clap_mangen::generate_to(Cli::command(), &a.directory).about(&a.directory)?;
            Ok(Status::Fine)
        }
    }
}
