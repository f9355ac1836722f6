//! Generates the messages and services of `capstan.v1`; protox parses them, so that no protoc is
//! needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "capstan/v1/types.proto",
        "capstan/v1/coordinator.proto",
        "capstan/v1/ring.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
