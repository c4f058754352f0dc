//! The host's side of an exchange.

use crate::group::KeyExchange;
use crate::response::{Parties, Question, Side};
use crate::{AuthHash, DhGroup, Secret, random};
use nvferry_wire::Nqn;
use nvferry_wire::auth::{AuthMessage, Challenge, Failure, FailureReason, Negotiate, Reply};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What a host has to prove, and what it wants to see proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTerms {
    /// The host.
    pub host: Nqn,
    /// The controller's subsystem.
    pub subsystem: Nqn,
    /// What the host proves to know.
    pub secret: Secret,
    /// What the controller has to prove to know, if anything.
    pub controller_secret: Option<Secret>,
}

/// Why a host gives an exchange up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFailure {
    /// For the controller, where it does not know yet: Failure2.
    pub message: Option<Vec<u8>>,
    /// In words.
    pub why: HostAuthError,
}

/// What went wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostAuthError {
    /// The target did not believe this host.
    #[error(
        "the target refuses this host's secret (authentication failed): is it the one that is set for this host there?{}",
        if *.is_mutual { " And has the target a secret of its own for this host, which asks it for a proof?" } else { "" }
    )]
    WrongSecret {
        /// The target was asked for a proof, too: where it has no secret for that, it says the same.
        is_mutual: bool,
    },
    /// The target ended the exchange for another reason.
    #[error("the target ended the authentication: {0}")]
    Refused(FailureReason),
    /// The controller's response is missing or wrong.
    #[error(
        "the target did not prove itself: {0}; it may be an impostor, or have another controller secret than this host"
    )]
    TargetUnproved(&'static str),
    /// A message that may not be.
    #[error("the target broke the authentication protocol: {0}")]
    Protocol(&'static str),
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// The host's side of one exchange.
pub struct HostExchange {
    terms: HostTerms,
    transaction: u16,
    asked: Option<Asked>,
}

impl std::fmt::Debug for HostExchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostExchange").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}

/// What was asked of the controller.
struct Asked {
    hash: AuthHash,
    challenge: Vec<u8>,
    sequence: u32,
    session_key: Option<Zeroizing<Vec<u8>>>,
}

impl HostExchange {
    /// Begins an exchange: the message to send first. All hashes and groups are offered.
    #[must_use]
    pub fn begin(terms: HostTerms, transaction: u16) -> (Self, Vec<u8>) {
        let message = AuthMessage::Negotiate(Negotiate {
            transaction,
            secure_channel: 0,
            dhchap: true,
            hashes: AuthHash::ALL.map(|hash| hash as u8).to_vec(),
            groups: DhGroup::ALL.map(|group| group as u8).to_vec(),
        });
        (Self { terms, transaction, asked: None }, message.encode())
    }

    /// The controller's answer to the first message: the message to send next. With a DH group this takes milliseconds.
    ///
    /// # Errors
    /// The exchange is over.
    pub fn challenged(&mut self, bytes: &[u8]) -> Result<Vec<u8>, HostFailure> {
        let AuthMessage::Challenge(challenge) = self.decode(bytes)? else { return Err(self.out_of_order()) };
        let Challenge { hash, group, .. } = challenge;
        let random_failed = |_| HostFailure { message: None, why: HostAuthError::Random };
        let exchange = KeyExchange::new(group).transpose().map_err(random_failed)?;
        let mut dh_value = Vec::new();
        let mut session_key = None;
        if let Some(exchange) = exchange {
            let Ok(key) = exchange.agree(&challenge.dh_value) else {
                return Err(self.protocol("its DH value is none that an honest target sends"));
            };
            session_key = Some(key);
            dh_value = exchange.value();
        }
        let question = Question {
            hash,
            challenge: &challenge.challenge,
            sequence: challenge.sequence,
            transaction: self.transaction,
            session_key: session_key.as_ref().map(|key| key.as_slice()),
        };
        let parties = self.parties();
        let response = parties.response(Side::Host, &self.terms.secret.key_of(&parties.host), &question);
        let mut sequence = 0;
        let mut own = None;
        if self.terms.controller_secret.is_some() {
            let number = random(4).map_err(random_failed)?;
            sequence = number.first_chunk().map_or(1, |bytes| u32::from_le_bytes(*bytes)).max(1);
            own = Some(random(hash.len_bytes()).map_err(random_failed)?);
        }
        self.asked = own.clone().map(|challenge| Asked { hash, challenge, sequence, session_key });
        let reply = Reply {
            transaction: self.transaction,
            sequence,
            response: response.as_slice().to_vec(),
            challenge: own,
            dh_value,
        };
        Ok(AuthMessage::Reply(reply).encode())
    }

    /// The controller's verdict. A message that comes out is to be sent: the host is content, too.
    ///
    /// # Errors
    /// The controller refused this host, or did not prove itself.
    pub fn concluded(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, HostFailure> {
        let AuthMessage::Success1(success) = self.decode(bytes)? else { return Err(self.out_of_order()) };
        let (Some(asked), Some(secret)) = (self.asked.take(), &self.terms.controller_secret) else { return Ok(None) };
        let unproved = |why| HostFailure {
            message: Some(self.failure(FailureReason::AuthenticationFailed)),
            why: HostAuthError::TargetUnproved(why),
        };
        let Some(response) = &success.response else { return Err(unproved("it sent no response")) };
        let parties = self.parties();
        let question = Question {
            hash: asked.hash,
            challenge: &asked.challenge,
            sequence: asked.sequence,
            transaction: self.transaction,
            session_key: asked.session_key.as_ref().map(|key| key.as_slice()),
        };
        let expected = parties.response(Side::Controller, &secret.key_of(&parties.subsystem), &question);
        if !bool::from(expected.as_slice().ct_eq(response)) {
            return Err(unproved("its response is wrong"));
        }
        Ok(Some(AuthMessage::Success2(self.transaction).encode()))
    }

    fn parties(&self) -> Parties {
        Parties { host: self.terms.host.clone(), subsystem: self.terms.subsystem.clone() }
    }

    fn failure(&self, reason: FailureReason) -> Vec<u8> {
        AuthMessage::Failure2(Failure { transaction: self.transaction, reason }).encode()
    }

    fn out_of_order(&self) -> HostFailure {
        HostFailure {
            message: Some(self.failure(FailureReason::IncorrectMessage)),
            why: HostAuthError::Protocol("it sent a message that was not the next"),
        }
    }

    fn protocol(&self, why: &'static str) -> HostFailure {
        let message = Some(self.failure(FailureReason::IncorrectPayload));
        HostFailure { message, why: HostAuthError::Protocol(why) }
    }

    /// Reads a message; one that ends the exchange is an error.
    fn decode(&self, bytes: &[u8]) -> Result<AuthMessage, HostFailure> {
        let message = match AuthMessage::decode(bytes) {
            Ok(message) => message,
            Err(_) => return Err(self.protocol("it sent a message that cannot be read")),
        };
        if let AuthMessage::Failure1(Failure { reason, .. }) = message {
            let why = match reason {
                FailureReason::AuthenticationFailed => {
                    HostAuthError::WrongSecret { is_mutual: self.terms.controller_secret.is_some() }
                }
                reason => HostAuthError::Refused(reason),
            };
            return Err(HostFailure { message: None, why });
        }
        if message.transaction() != self.transaction {
            return Err(self.protocol("it changed the transaction identifier"));
        }
        Ok(message)
    }
}
