//! Interception library.
#![no_std]
use lifeboat_fs as _;
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
