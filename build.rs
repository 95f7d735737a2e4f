//! Build script of `dpdk-sys`: finds DPDK, generates bindings over `ffi/wrapper.h` and compiles `ffi/shim.c`. Nothing else.
//!
//! Everything follows the installed headers: signatures, constants and the places of mbuf fields. So one tree builds on
//! DPDK 22.11 to 24.11, whose structures differ. `pkg-config`'s flags go whole to bindgen and to the C compiler, because
//! the headers need `-include rte_config.h` and the machine flags that DPDK was built with.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const OLDEST: &str = "22.11";

/// What we call. Static inlines among them get a C wrapper, so each is called per burst or less often, never per packet.
const FUNCTIONS: &[&str] = &[
    "fairlead_.*",
    "rte_dev_(probe|remove)",
    "rte_eal_(get_lcore_state|init|remote_launch|wait_lcore)",
    "rte_eth_(rx_burst|tx_burst|stats_get|stats_reset|xstats_get|xstats_get_names|xstats_reset)",
    "rte_eth_(macaddr_get|promiscuous_enable|promiscuous_disable|promiscuous_get|allmulticast_enable)",
    "rte_eth_(rx_queue_setup|tx_queue_setup)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|close|configure|default_mac_addr_set|get_mtu|get_port_by_name|info_get)",
    "rte_eth_dev_rx_intr_(ctl_q_get_fd|disable|enable)",
    "rte_eth_dev_(rss_hash_conf_get|rss_reta_query|rss_reta_update|set_mtu|socket_id|start|stop)",
    "rte_lcore_to_socket_id",
    "rte_log_set_global_level",
    "rte_mempool_(avail_count|lookup)",
    "rte_pktmbuf_(alloc|alloc_bulk|free|free_bulk|pool_create)",
    "rte_softrss",
    "rte_strerror",
    "rte_version",
];
const CONSTANTS: &[&str] = &["FAIRLEAD_.*", "fairlead_.*"];

fn main() {
    for file in ["build.rs", "ffi/wrapper.h", "ffi/shim.h", "ffi/shim.c"] {
        println!("cargo::rerun-if-changed={}", root().join(file).display());
    }
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "LIBCLANG_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let cflags = find_dpdk();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("cargo sets OUT_DIR")));
    generate(&cflags, &out);
    compile(&cflags, &out);
    link();
}

/// The repository's root: the package lives in `ffi/`.
fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| fail("cargo sets CARGO_MANIFEST_DIR"));
    Path::new(&package).parent().map_or_else(|| fail("ffi/ lies in the repository"), Path::to_path_buf)
}

fn find_dpdk() -> Vec<String> {
    let version = pkg_config(&["--modversion"]);
    if let Some(version) = version.first() {
        println!("cargo::metadata=version={version}");
    }
    let at_least = format!("--atleast-version={OLDEST}");
    if !pkg_config_runs(&[&at_least]) {
        fail(&format!("DPDK {} is too old: {OLDEST} or newer is needed", version.join(" ")));
    }
    pkg_config(&["--cflags"])
}

fn generate(cflags: &[String], out: &Path) {
    // bindgen panics when it cannot load libclang; asking for the version first turns that into our own sentence.
    std::panic::set_hook(Box::new(|_| {}));
    if std::panic::catch_unwind(bindgen::clang_version).is_err() {
        fail(
            "libclang is missing, which reads DPDK's headers: install libclang-dev (Debian, Ubuntu) or clang-devel \
              (Fedora), or point LIBCLANG_PATH at the folder that holds libclang.so",
        );
    }
    drop(std::panic::take_hook());
    let mut builder = bindgen::Builder::default()
        .header(root().join("ffi/wrapper.h").to_string_lossy())
        .clang_args(cflags)
        .allowlist_recursively(true)
        // Reached by the offsets in shim.h alone: their shapes differ between releases.
        .opaque_type("rte_mbuf")
        .opaque_type("rte_mempool")
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .derive_default(false)
        .layout_tests(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .wrap_unsafe_ops(true)
        .wrap_static_fns(true)
        .wrap_static_fns_path(out.join("inlines"))
        .formatter(bindgen::Formatter::None);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in CONSTANTS {
        builder = builder.allowlist_var(name);
    }
    let written = builder.generate().map_err(|error| error.to_string()).and_then(|bindings| {
        bindings.write_to_file(out.join("bindings.rs")).map_err(|error| error.to_string())
    });
    if let Err(error) = written {
        fail(&format!("DPDK's headers could not be read: {error}"));
    }
}

fn compile(cflags: &[String], out: &Path) {
    let mut build = cc::Build::new();
    // -O3 whatever the profile: these are the calls of the packet path.
    build
        .file(root().join("ffi/shim.c"))
        .file(out.join("inlines.c"))
        .include(root().join("ffi"))
        .opt_level(3);
    build.warnings(false).flag("-Wno-deprecated-declarations");
    for flag in cflags {
        build.flag(flag);
    }
    if let Err(error) = build.try_compile("fairlead_shim") {
        fail(&format!("the C shim over DPDK does not compile: {error}"));
    }
}

/// Links the shared libraries; they load the drivers of the installed DPDK by themselves.
fn link() {
    for flag in pkg_config(&["--libs"]) {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={folder}");
        } else if let Some(name) = flag.strip_prefix("-l") {
            println!("cargo::rustc-link-lib=dylib={name}");
        }
    }
}

fn pkg_config_command(arguments: &[&str]) -> Command {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let mut command = Command::new(program);
    command.args(arguments).arg("libdpdk");
    command
}

fn pkg_config_runs(arguments: &[&str]) -> bool {
    pkg_config_command(arguments).status().is_ok_and(|status| status.success())
}

fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let output = pkg_config_command(arguments).output().unwrap_or_else(|error| {
        fail(&format!(
            "pkg-config does not run ({error}): install pkg-config (Debian: `apt install pkg-config`)"
        ))
    });
    if !output.status.success() {
        fail(&format!(
            "DPDK's development files are missing: install libdpdk-dev (Debian, Ubuntu) or dpdk-devel (Fedora), or put \
             the folder of libdpdk.pc into PKG_CONFIG_PATH; `cargo build` without `--features dpdk` needs neither. \
             pkg-config says: {}",
            String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
        ));
    }
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}
