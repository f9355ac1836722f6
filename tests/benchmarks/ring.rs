//! All-reduce between processes of this machine, with our ring and with gloo, in one run.
//!
//! ```text
//! cargo run --release -p capstan-tests --bin ring -- [PYTHON]
//! ```
//! `PYTHON` is an interpreter with torch; it runs `tests/peers/gloo.py`. Without it only our own figures
//! are printed. Rounds of both alternate, so that drift of the machine's speed affects both. A figure is
//! the median over rounds of the bus bandwidth
//! (nccl-tests, `doc/PERFORMANCE.md`): 2 (n - 1) / n * bytes / seconds of the slowest rank.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use capstan_collective::{Collective, Ring, RingEpoch, RingPlan, Secret};
use capstan_tests::median;

const WORLDS: [usize; 2] = [2, 4];
const MEGABYTES: [usize; 3] = [1, 25, 100];
const ROUNDS: usize = 5;
/// Limit for one exchange on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Repetitions of one size, after two warm-up repetitions.
fn repetitions(megabytes: usize) -> usize {
    match megabytes {
        0..=1 => 50,
        2..=25 => 15,
        _ => 7,
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--rank") {
        return rank(arguments[1].parse()?, arguments[2].parse()?);
    }
    let python = arguments.first();
    let mut ours = vec![Vec::new(); WORLDS.len() * MEGABYTES.len()];
    let mut gloos = ours.clone();
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        for (world_at, world) in WORLDS.into_iter().enumerate() {
            let at = world_at * MEGABYTES.len();
            for (offset, figure) in ring(world)?.into_iter().enumerate() {
                ours[at + offset].push(figure);
            }
            if let Some(python) = python {
                for (offset, figure) in gloo(python, world)?.into_iter().enumerate() {
                    gloos[at + offset].push(figure);
                }
            }
        }
    }
    println!("| Processes | MB | ring, GB/s | gloo, GB/s | ring / gloo |");
    println!("|---|---|---|---|---|");
    for (at, (ours, gloos)) in ours.iter_mut().zip(&mut gloos).enumerate() {
        let (world, megabytes) = (
            WORLDS[at / MEGABYTES.len()],
            MEGABYTES[at % MEGABYTES.len()],
        );
        let mut ratios: Vec<f64> = ours.iter().zip(gloos.iter()).map(|(a, b)| a / b).collect();
        let (ours, gloo, ratio) = (median(ours), median(gloos), median(&mut ratios));
        println!("| {world} | {megabytes} | {ours:.2} | {gloo:.2} | {ratio:.2} |");
    }
    Ok(())
}

/// One round of our ring: bus bandwidth in GB/s for each size.
fn ring(world: usize) -> anyhow::Result<Vec<f64>> {
    let program = std::env::current_exe()?;
    let mut ranks = Vec::new();
    for rank in 0..world {
        let child = Command::new(&program)
            .args(["--rank", &rank.to_string(), &world.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        ranks.push(child);
    }
    let mut outputs = Vec::new();
    let mut peers = String::new();
    for rank in &mut ranks {
        let mut output = BufReader::new(rank.stdout.take().context("stdout was piped")?);
        let mut address = String::new();
        output.read_line(&mut address)?;
        peers.push_str(address.trim());
        peers.push(' ');
        outputs.push(output);
    }
    peers.push('\n');
    for rank in &mut ranks {
        let mut input = rank.stdin.take().context("stdin was piped")?;
        input.write_all(peers.as_bytes())?;
    }
    let mut figures = Vec::new();
    for line in outputs.swap_remove(0).lines() {
        figures.push(line?.parse()?);
    }
    ranks.into_iter().try_for_each(ended_well)?;
    ensure!(
        figures.len() == MEGABYTES.len(),
        "a rank printed {figures:?}"
    );
    Ok(figures)
}

fn ended_well(mut child: Child) -> anyhow::Result<()> {
    let status = child.wait()?;
    ensure!(status.success(), "a rank exited with {status}");
    Ok(())
}

/// One rank: prints its address, reads the addresses of all ranks, and measures.
fn rank(rank: usize, world_size: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let peers = line.split_whitespace().map(str::parse);
    let peers: Vec<SocketAddr> = peers.collect::<Result<_, _>>()?;
    let plan = RingPlan {
        run: "benchmark".to_owned(),
        ring_epoch: RingEpoch {
            generation: 1,
            counter: 1,
        },
        rank,
        world_size,
        peers,
        secret: Secret([7; 32]),
    };
    let until = || Instant::now() + LIMIT;
    let mut ring = Ring::connect(&plan, &listener, 0, until())?;
    for megabytes in MEGABYTES {
        let mut values = vec![rank as f32 + 1.0; megabytes * 1_000_000 / 4];
        ring.all_reduce_sum(&mut values, until())?;
        let sum = (world_size * (world_size + 1) / 2) as f32;
        ensure!(values.iter().all(|value| *value == sum), "a sum is wrong");
        let mut seconds = Vec::new();
        for repetition in 0..repetitions(megabytes) + 2 {
            values.fill(1.0);
            ring.barrier(until())?;
            let began = Instant::now();
            ring.all_reduce_sum(&mut values, until())?;
            let own = [began.elapsed().as_secs_f32()];
            let all = ring.all_gather(&own, until())?;
            if repetition >= 2 {
                let slowest = all.iter().flatten().copied().fold(0.0, f32::max);
                seconds.push(f64::from(slowest));
            }
        }
        if rank == 0 {
            let bytes = size_of_val(&values[..]) as f64;
            let share = 2.0 * (world_size - 1) as f64 / world_size as f64;
            println!("{}", share * bytes / median(&mut seconds) / 1e9);
        }
    }
    Ok(())
}

/// One round of gloo: bus bandwidth in GB/s for each size.
fn gloo(python: &str, world: usize) -> anyhow::Result<Vec<f64>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/gloo.py");
    let sizes: Vec<String> = MEGABYTES.iter().map(usize::to_string).collect();
    let output = Command::new(python)
        .arg(script)
        .args(["--worlds", &world.to_string(), "--mb", &sizes.join(",")])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{python} cannot be started"))?;
    ensure!(
        output.status.success(),
        "gloo exited with {}",
        output.status
    );
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().context("gloo printed nothing")?;
    let runs: serde_json::Value = serde_json::from_str(last)?;
    let runs = runs["runs"].as_array().context("gloo printed no runs")?;
    let figure = |run: &serde_json::Value| run["bus_gb_s"].as_f64().context("no bus_gb_s");
    runs.iter().map(figure).collect()
}
