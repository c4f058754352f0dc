//! SHA-2 and HMAC, by the number that NVMe gives them.

use hmac::{Hmac, KeyInit, Mac};
use nvferry_wire::auth::AuthHash;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

/// The longest result in bytes.
const MAX_BYTES: usize = 64;

/// The result of a hash; wiped when it is dropped.
#[derive(Clone)]
pub(crate) struct Digest {
    bytes: Zeroizing<[u8; MAX_BYTES]>,
    len: usize,
}

impl Digest {
    fn new(result: &[u8]) -> Self {
        let mut bytes = Zeroizing::new([0; MAX_BYTES]);
        bytes[..result.len()].copy_from_slice(result);
        Self { bytes, len: result.len() }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The hash of `bytes`.
pub(crate) fn hash(hash: AuthHash, bytes: &[u8]) -> Digest {
    match hash {
        AuthHash::Sha256 => Digest::new(&Sha256::digest(bytes)),
        AuthHash::Sha384 => Digest::new(&Sha384::digest(bytes)),
        AuthHash::Sha512 => Digest::new(&Sha512::digest(bytes)),
    }
}

/// The HMAC of `parts`, one after the other.
pub(crate) fn hmac(hash: AuthHash, key: &[u8], parts: &[&[u8]]) -> Digest {
    match hash {
        AuthHash::Sha256 => hmac_with::<Hmac<Sha256>>(key, parts),
        AuthHash::Sha384 => hmac_with::<Hmac<Sha384>>(key, parts),
        AuthHash::Sha512 => hmac_with::<Hmac<Sha512>>(key, parts),
    }
}

fn hmac_with<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Digest {
    // HMAC takes keys of any length, so there is always one; an empty result would match nothing.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else { return Digest::new(&[]) };
    parts.iter().for_each(|part| mac.update(part));
    Digest::new(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transform_of_nvme_cli_comes_out() {
        // `nvme gen-dhchap-key --secret 0011…ff --hmac 1|2|3 --key-length 32|48|64 --nqn …`: the key is
        // HMAC(secret, NQN || "NVMe-over-Fabrics"), its CRC-32 left out here.
        let nqn: &[u8] = b"nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111";
        let secret: Vec<u8> = (0..64).map(|i| (i % 16) * 0x11).collect();
        for (which, made) in [
            (AuthHash::Sha256, "DHHC-1:01:p9LnJidWMsLTTLU5Rn9WgGianCzSvIWH6xgGjaYtGm0RLugl:"),
            (AuthHash::Sha384, SHA384),
            (AuthHash::Sha512, SHA512),
        ] {
            let key = hmac(which, &secret[..which.len_bytes()], &[nqn, b"NVMe-over-Fabrics"]);
            let ours = crate::Secret::from_key(key.as_slice(), Some(which)).unwrap();
            assert_eq!(*ours.expose(), made);
        }
    }

    const SHA384: &str = "DHHC-1:02:aXRZxc6epn8dU3NxUaqx+T/+yMcevPPA5Rmw4j4ni9JbaHVoJQ0g3BMZ+6UoCGhh1tf+jg==:";
    const SHA512: &str =
        "DHHC-1:03:fe21BPo0YD5AIBcJBuItjxjac4Cm1ECTJgQcjbMIRqAyXwGa47DyPomDOq8bdMRg9G9vkGLJaAo9+gdQ9gPfgDPRdSg=:";
}
