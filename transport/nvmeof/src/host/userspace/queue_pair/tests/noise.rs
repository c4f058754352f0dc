//! Random bytes instead of a target.

use crate::testing::random;
use crate::testing::rig::{Rig, memory};
use std::time::Duration;

#[test]
fn p14_random_bytes_hurt_nobody() {
    let mut random = random("p14_random_bytes_hurt_nobody");
    for _ in 0..500 {
        let mut rig = if random.below(2) == 0 { Rig::ready() } else { Rig::new() };
        if rig.stream.is_none() {
            rig.connect(16 << 20);
        }
        let mut read = memory(20_000);
        let request = rig.read(1, 0, &read);
        let _ = rig.drive();
        let mut noise = vec![0; 1 + random.below(300) as usize];
        random.fill(&mut noise);
        // A header that is often almost right gets further.
        noise[0] = [1, 3, 5, 7, 9][random.below(5) as usize];
        if noise.len() > 8 && random.below(2) == 0 {
            noise[1..8].copy_from_slice(&[random.below(16) as u8, 24, [0, 24][random.below(2) as usize], 24, 2, 0, 0]);
        }
        rig.target.say_raw(&noise);
        let _ = rig.drive();
        assert!(rig.outcome(request).is_none_or(|result| result.is_err()), "noise is no success");
        let _ = rig.pass(Duration::from_secs(31));
        assert!(rig.outcome(request).is_some(), "it has ended");
        assert!(read.bytes().is_ok(), "nothing is leased any more");
    }
}
