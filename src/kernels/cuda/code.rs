//! The compiled kernels, in a section of the program that CUDA's tools look into.

/// The fat binary that `build.rs` had made.
const FAT_BINARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

#[repr(C, align(16))]
struct Aligned([u8; FAT_BINARY.len()]);

// SAFETY: the section means nothing to the loader; tools find fat binaries in it.
#[unsafe(link_section = ".nv_fatbin")]
static SECTION: Aligned = Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// The fat binary of `kernels.cu`.
pub fn fat_binary() -> &'static [u8] {
    &SECTION.0
}
