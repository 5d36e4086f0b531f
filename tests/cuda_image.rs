//! Kernels outside the op registry, on the simulator: what samplers, tiles, colour fix and optimiser do on the
//! device, against the host's code.
#![cfg(not(windows))]

use dreamclear::device::kernel::DeviceFacts;
use dreamclear::ops::check_cuda::Simulated;
use dreamclear::verify::outside;

#[test]
fn kernels_outside_the_registry_do_what_the_host_does() {
    let Ok(simulated) = Simulated::new(DeviceFacts::A100) else {
        return eprintln!("skipped: this build has no simulator (no C++ compiler)");
    };
    for name in outside::NAMES {
        let row = outside::run(name, &simulated);
        assert!(row.failure.is_none(), "{name}: {}", row.failure.unwrap());
        assert!(!row.kernels.is_empty(), "{name} runs no kernel");
    }
}

#[test]
fn an_unknown_check_fails() {
    let Ok(simulated) = Simulated::new(DeviceFacts::A100) else { return };
    assert!(outside::run("no such check", &simulated).failure.unwrap().contains("clipping"));
}
