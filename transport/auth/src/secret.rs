//! Secrets in the text form that NVMe gives them: `DHHC-1:hh:base64:` (base specification 8.13.5.8).

use crate::hash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nvferry_wire::Nqn;
use nvferry_wire::auth::AuthHash;
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What a secret is transformed with, besides its owner's name.
const TRANSFORM_LABEL: &[u8] = b"NVMe-over-Fabrics";

/// A secret that a host or a controller proves to know. Its memory is wiped when it is dropped, and nothing shows it
/// but [`Secret::expose`].
#[derive(Clone)]
pub struct Secret {
    transform: Option<AuthHash>,
    key: Zeroizing<Vec<u8>>,
}

/// Why a text is no secret. The text itself is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// It has another shape.
    #[error("a secret has the form DHHC-1:hh:base64: and ends with a colon; make one with `nvferry secret`")]
    Form,
    /// The two digits name no hash.
    #[error("the secret's hash is none of 00 (none), 01 (SHA-256), 02 (SHA-384), 03 (SHA-512)")]
    Hash,
    /// The key is not base64.
    #[error("the secret's key is not base64: a character may have been lost or changed")]
    Base64,
    /// The key has another length than the three allowed.
    #[error("the secret's key has {bytes} bytes; 32, 48 or 64 are allowed, and 4 bytes of CRC-32 after them")]
    Length {
        /// Bytes that it has, the checksum left out.
        bytes: usize,
    },
    /// The checksum does not match.
    #[error("the secret's CRC-32 does not match: a character may have been changed")]
    Checksum,
}

/// No random numbers could be had.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers: {0}")]
pub struct RandomError(#[from] getrandom::Error);

impl Secret {
    /// A secret of these bytes, which a peer transforms with `transform` before it uses it.
    ///
    /// # Errors
    /// [`SecretError::Length`].
    pub fn from_key(key: &[u8], transform: Option<AuthHash>) -> Result<Self, SecretError> {
        if !matches!(key.len(), 32 | 48 | 64) {
            return Err(SecretError::Length { bytes: key.len() });
        }
        Ok(Self { transform, key: Zeroizing::new(key.to_vec()) })
    }

    /// A new random secret, as long as its hash's result (32 bytes without a hash).
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate(transform: Option<AuthHash>) -> Result<Self, RandomError> {
        let mut key = Zeroizing::new(vec![0; transform.map_or(32, AuthHash::len_bytes)]);
        getrandom::fill(&mut key)?;
        Ok(Self { transform, key })
    }

    /// The text form. Give it only to whoever shall know the secret.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.key.to_vec());
        bytes.extend_from_slice(&crc32fast::hash(&self.key).to_le_bytes());
        let encoded = Zeroizing::new(STANDARD.encode(&*bytes));
        Zeroizing::new(format!("DHHC-1:{:02}:{}:", self.transform.map_or(0, |hash| hash as u8), *encoded))
    }

    /// The key that responses are made with: the secret as it is, or bound to its owner's name.
    #[must_use]
    pub fn key_of(&self, owner: &Nqn) -> Zeroizing<Vec<u8>> {
        match self.transform {
            None => self.key.clone(),
            Some(hash) => {
                let key = hash::hmac(hash, &self.key, &[owner.as_str().as_bytes(), TRANSFORM_LABEL]);
                Zeroizing::new(key.as_slice().to_vec())
            }
        }
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let rest = text.strip_prefix("DHHC-1:").ok_or(SecretError::Form)?;
        let (hash, rest) = rest.split_once(':').ok_or(SecretError::Form)?;
        let encoded = rest.strip_suffix(':').ok_or(SecretError::Form)?;
        let transform = match hash {
            "00" => None,
            "01" => Some(AuthHash::Sha256),
            "02" => Some(AuthHash::Sha384),
            "03" => Some(AuthHash::Sha512),
            _ => return Err(SecretError::Hash),
        };
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?);
        let (key, checksum) = bytes.split_last_chunk::<4>().ok_or(SecretError::Length { bytes: 0 })?;
        let secret = Self::from_key(key, transform)?;
        if crc32fast::hash(key).to_le_bytes() != *checksum {
            return Err(SecretError::Checksum);
        }
        Ok(secret)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.transform == other.transform && bool::from(self.key.ct_eq(&other.key))
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `nvme gen-dhchap-key --secret 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff --hmac 0`.
    const PLAIN: &str = "DHHC-1:00:ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8qDMNU:";

    #[test]
    fn the_text_form_is_read_and_written() {
        for transform in [None, Some(AuthHash::Sha256), Some(AuthHash::Sha384), Some(AuthHash::Sha512)] {
            let secret = Secret::generate(transform).unwrap();
            let text = secret.expose();
            assert_eq!(text.parse::<Secret>().unwrap(), secret);
            assert_eq!(text[7..9], format!("0{}", transform.map_or(0, |hash| hash as u8)));
            assert_ne!(secret, Secret::generate(transform).unwrap());
        }
    }

    #[test]
    fn a_secret_of_nvme_cli_is_read() {
        let key: Vec<u8> = (0..32).map(|i| (i % 16) * 0x11).collect();
        assert_eq!(*PLAIN.parse::<Secret>().unwrap().key, key);
        assert_eq!(*Secret::from_key(&key, None).unwrap().expose(), PLAIN);
    }

    #[test]
    fn what_is_wrong_is_said_and_the_secret_is_not() {
        let wrong = |text: &str| text.parse::<Secret>().unwrap_err();
        assert_eq!(wrong(""), SecretError::Form);
        assert_eq!(wrong(&PLAIN[..PLAIN.len() - 1]), SecretError::Form);
        assert_eq!(wrong(&PLAIN.replace("DHHC-1", "DHHC-2")), SecretError::Form);
        assert_eq!(wrong(&PLAIN.replace(":00:", ":04:")), SecretError::Hash);
        assert_eq!(wrong(&PLAIN.replace("ABEi", "AB*i")), SecretError::Base64);
        assert_eq!(wrong(&PLAIN.replace("ABEi", "ABEj")), SecretError::Checksum);
        assert_eq!(wrong("DHHC-1:00:AAAAAAAA:"), SecretError::Length { bytes: 2 });
        assert_eq!(wrong("DHHC-1:00::"), SecretError::Length { bytes: 0 });
        assert_eq!(format!("{:?}", PLAIN.parse::<Secret>().unwrap()), "Secret(..)");
    }
}
