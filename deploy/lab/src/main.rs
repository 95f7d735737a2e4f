//! `lab up|down|demo`: the namespaces by hand.

#![forbid(unsafe_code)]

use lab::{Lab, LabOptions};

fn main() -> anyhow::Result<()> {
    lab::echo::run_if_asked();
    let t = std::time::Instant::now();
    let lab = Lab::up(&LabOptions { name: "try".into(), c1_tx_offload: false })?;
    println!("up {:?}", t.elapsed());
    lab.kernel_router()?;
    for host in ["c1", "n1", "tool-1"] {
        let answer = lab.host(host).within(|| {
            lab::http::who("10.244.2.12:8080".parse().unwrap(), std::time::Duration::from_secs(2))
        });
        println!("{host} {answer:?}");
    }
    let t = std::time::Instant::now();
    drop(lab);
    println!("down {:?}", t.elapsed());
    Ok(())
}
