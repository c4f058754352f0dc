//! The controller's side of an exchange.
//!
//! ```text
//! Idle --Negotiate--> ChallengeDue --given--> ChallengeGiven --Reply--> Success1Due --given--> Proved
//!                                                                            '--given--> Success2Awaited --Success2--> Proved
//! any --something wrong--> FailureDue --given--> Failed;    any --Failure2--> Failed
//! ```

use crate::group::KeyExchange;
use crate::response::{Parties, Question, Side};
use crate::{Secret, random};
use nvferry_wire::Nqn;
use nvferry_wire::auth::{
    AuthHash, AuthMessage, Challenge, DhGroup, Failure, FailureReason, Negotiate, Reply, Success1,
};
use subtle::ConstantTimeEq;

/// What a controller asks of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerTerms {
    /// The host.
    pub host: Nqn,
    /// The controller's subsystem.
    pub subsystem: Nqn,
    /// What the host has to know.
    pub secret: Secret,
    /// What the controller proves to know, if it is asked to.
    pub controller_secret: Option<Secret>,
    /// The hash of the exchange; hosts without it are refused.
    pub hash: AuthHash,
    /// The group of the exchange; hosts without it are refused.
    pub group: DhGroup,
}

/// How an exchange stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The host has not yet proved itself.
    Open,
    /// It has.
    Proved,
    /// It will not; why, for people who run the target.
    Failed(&'static str),
}

/// The controller's side of the exchanges on one queue.
pub struct ControllerExchange {
    terms: ControllerTerms,
    state: State,
    /// A host that has proved itself may do so again.
    proved: bool,
    transaction: u16,
}

enum State {
    Idle,
    ChallengeDue(Asked),
    ChallengeGiven(Asked),
    Success1Due { response: Option<Vec<u8>> },
    Success2Awaited,
    FailureDue { reason: FailureReason, why: &'static str },
    Failed { why: &'static str },
}

/// What was asked of the host.
struct Asked {
    challenge: Vec<u8>,
    sequence: u32,
    exchange: Option<KeyExchange>,
    dh_value: Vec<u8>,
}

/// Why an exchange ends.
type Refusal = (FailureReason, &'static str);

const OUT_OF_ORDER: Refusal = (FailureReason::IncorrectMessage, "it sent a message that was not the next");

impl ControllerExchange {
    /// An exchange that the host begins.
    #[must_use]
    pub fn new(terms: ControllerTerms) -> Self {
        Self { terms, state: State::Idle, proved: false, transaction: 0 }
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.state {
            State::FailureDue { .. } => Standing::Open,
            State::Failed { why } => Standing::Failed(why),
            _ if self.proved => Standing::Proved,
            _ => Standing::Open,
        }
    }

    /// Takes a message from the host (Authentication Send), of any bytes. What is wrong with it, the host learns from
    /// the next message to it. With a DH group this takes milliseconds.
    pub fn take(&mut self, bytes: &[u8]) {
        let state = std::mem::replace(&mut self.state, State::Idle);
        if let State::FailureDue { .. } | State::Failed { .. } = state {
            // Nothing mends it.
            self.state = state;
            return;
        }
        self.state = self.next(state, bytes).unwrap_or_else(|(reason, why)| State::FailureDue { reason, why });
    }

    /// The next message to the host (Authentication Receive), if there is one.
    pub fn give(&mut self) -> Option<Vec<u8>> {
        let transaction = self.transaction;
        let (message, next) = match std::mem::replace(&mut self.state, State::Idle) {
            State::ChallengeDue(asked) => {
                let message = AuthMessage::Challenge(Challenge {
                    transaction,
                    hash: self.terms.hash,
                    group: self.terms.group,
                    sequence: asked.sequence,
                    challenge: asked.challenge.clone(),
                    dh_value: asked.dh_value.clone(),
                });
                (message, State::ChallengeGiven(asked))
            }
            State::Success1Due { response } => {
                let awaits = response.is_some();
                self.proved |= !awaits;
                let next = if awaits { State::Success2Awaited } else { State::Idle };
                (
                    AuthMessage::Success1(Success1 {
                        transaction,
                        hash_bytes: self.terms.hash.len_bytes() as u8,
                        response,
                    }),
                    next,
                )
            }
            State::FailureDue { reason, why } => {
                (AuthMessage::Failure1(Failure { transaction, reason }), State::Failed { why })
            }
            other => {
                self.state = other;
                return None;
            }
        };
        self.state = next;
        Some(message.encode())
    }

    fn next(&mut self, state: State, bytes: &[u8]) -> Result<State, Refusal> {
        let malformed = (FailureReason::IncorrectPayload, "it sent a message that cannot be read");
        let message = AuthMessage::decode(bytes).map_err(|_| malformed)?;
        if !matches!(state, State::Idle) && message.transaction() != self.transaction {
            return Err((FailureReason::IncorrectPayload, "it changed the transaction identifier"));
        }
        match (message, state) {
            (AuthMessage::Negotiate(negotiate), State::Idle) => self.negotiate(&negotiate),
            (AuthMessage::Reply(reply), State::ChallengeGiven(asked)) => self.reply(&reply, &asked),
            (AuthMessage::Success2(_), State::Success2Awaited) => {
                self.proved = true;
                Ok(State::Idle)
            }
            (AuthMessage::Failure2(_), State::Success2Awaited) => {
                Ok(State::Failed { why: "it did not believe this target's own proof: is its controller secret right?" })
            }
            (AuthMessage::Failure2(_), _) => Ok(State::Failed { why: "it gave the exchange up" }),
            _ => Err(OUT_OF_ORDER),
        }
    }

    fn negotiate(&mut self, negotiate: &Negotiate) -> Result<State, Refusal> {
        self.transaction = negotiate.transaction;
        if !negotiate.dhchap {
            return Err((FailureReason::ProtocolNotUsable, "it does not offer DH-HMAC-CHAP"));
        }
        if negotiate.secure_channel != 0 {
            return Err((FailureReason::SecureChannelMismatch, "it wants a secure channel, which this target has not"));
        }
        if !negotiate.hashes.contains(&(self.terms.hash as u8)) {
            return Err((FailureReason::HashNotUsable, "it does not offer the hash that is set for it"));
        }
        if !negotiate.groups.contains(&(self.terms.group as u8)) {
            return Err((FailureReason::GroupNotUsable, "it does not offer the DH group that is set for it"));
        }
        let no_random = |_| (FailureReason::AuthenticationFailed, "this machine gave no random numbers");
        let challenge = random(self.terms.hash.len_bytes()).map_err(no_random)?;
        let number = random(4).map_err(no_random)?;
        // Zero is no sequence number.
        let sequence = number.first_chunk().map_or(1, |bytes| u32::from_le_bytes(*bytes)).max(1);
        let exchange = KeyExchange::new(self.terms.group).transpose().map_err(no_random)?;
        let dh_value = exchange.as_ref().map(KeyExchange::value).unwrap_or_default();
        Ok(State::ChallengeDue(Asked { challenge, sequence, exchange, dh_value }))
    }

    fn reply(&mut self, reply: &Reply, asked: &Asked) -> Result<State, Refusal> {
        let hash = self.terms.hash;
        if reply.response.len() != hash.len_bytes() {
            return Err((FailureReason::IncorrectPayload, "its response has another length than the hash"));
        }
        let improper = (FailureReason::IncorrectPayload, "its DH value is none that an honest host sends");
        let session_key = match &asked.exchange {
            Some(_) if reply.dh_value.len() != self.terms.group.len_bytes() => return Err(improper),
            Some(exchange) => Some(exchange.agree(&reply.dh_value).map_err(|_| improper)?),
            None if !reply.dh_value.is_empty() => return Err(improper),
            None => None,
        };
        let session_key = session_key.as_ref().map(|key| key.as_slice());
        let parties = Parties { host: self.terms.host.clone(), subsystem: self.terms.subsystem.clone() };
        let question = Question {
            hash,
            challenge: &asked.challenge,
            sequence: asked.sequence,
            transaction: self.transaction,
            session_key,
        };
        let expected = parties.response(Side::Host, &self.terms.secret.key_of(&parties.host), &question);
        if !bool::from(expected.as_slice().ct_eq(&reply.response)) {
            return Err((FailureReason::AuthenticationFailed, "it does not know the secret that is set for it"));
        }
        let Some(challenge) = &reply.challenge else { return Ok(State::Success1Due { response: None }) };
        if *challenge == asked.challenge {
            return Err((FailureReason::AuthenticationFailed, "it sent this target's own challenge back"));
        }
        let Some(secret) = &self.terms.controller_secret else {
            return Err((
                FailureReason::AuthenticationFailed,
                "it asks this target to prove itself, and no controller secret is set for it",
            ));
        };
        let question = Question { challenge, sequence: reply.sequence, ..question };
        let response = parties.response(Side::Controller, &secret.key_of(&parties.subsystem), &question);
        Ok(State::Success1Due { response: Some(response.as_slice().to_vec()) })
    }
}
