//! DH-HMAC-CHAP as a host does it, message by message.

use super::host::{Ended, HOST, Host, SUBSYSTEM, Way, connect_data};
use nvferry_auth::{HostExchange, HostTerms, Secret};
use nvferry_wire::auth::{AuthReceive, AuthSend, MAX_AUTH_DATA_BYTES};
use nvferry_wire::fabrics::{Connect, ConnectResult};
use nvferry_wire::{ControllerId, Nqn, QueueId, SglDescriptor, Status};
use std::io::{Read, Write};

/// What the host of these tests knows, and wants to see proved.
pub(crate) fn terms(secret: &Secret, controller_secret: Option<&Secret>) -> HostTerms {
    HostTerms {
        host: Nqn::new(HOST).unwrap(),
        subsystem: Nqn::new(SUBSYSTEM).unwrap(),
        secret: secret.clone(),
        controller_secret: controller_secret.cloned(),
    }
}

impl<T: Read + Write> Host<T> {
    /// Connects an admin queue, which the target wants a proof on, and no more.
    pub(crate) fn connect_unproved(&mut self) -> ControllerId {
        let connect = Connect {
            qid: QueueId::ADMIN,
            sq_entries: 32,
            disable_sq_flow_control: false,
            individual_io_queue_deletion: false,
            kato_ms: 0,
        };
        let ended = self.connect(&connect, &connect_data(SUBSYSTEM, HOST, ControllerId::DYNAMIC));
        assert!(ended.status().is_success(), "{}", ended.status());
        let result = ConnectResult::from_result(ended.cqe.result);
        assert!(result.authentication_required && !result.secure_channel_required);
        result.cntlid
    }

    pub(crate) fn auth_send(&mut self, message: &[u8], way: Way) -> Status {
        let cid = self.cid();
        self.execute_with(AuthSend { length_bytes: message.len() as u32 }.sqe(cid), message, way).status()
    }

    /// Sends a message, and does not wait for what becomes of it.
    pub(crate) fn auth_send_only(&mut self, message: &[u8]) {
        let length = message.len() as u32;
        let sqe = AuthSend { length_bytes: length }.sqe(self.cid());
        self.send_command(&sqe.with_sgl(SglDescriptor::InCapsule { offset: 0, length }), message);
    }

    pub(crate) fn auth_receive_bytes(&mut self, length_bytes: u32) -> Ended {
        let cid = self.cid();
        let sqe = AuthReceive { length_bytes }.sqe(cid).with_sgl(SglDescriptor::Transport { length: length_bytes });
        self.execute(&sqe)
    }

    pub(crate) fn auth_receive(&mut self) -> Vec<u8> {
        let ended = self.auth_receive_bytes(MAX_AUTH_DATA_BYTES);
        assert!(ended.status().is_success(), "{}", ended.status());
        assert_eq!(ended.data.len(), MAX_AUTH_DATA_BYTES as usize);
        ended.data
    }

    /// A whole exchange of an honest host.
    pub(crate) fn authenticate(&mut self, terms: HostTerms, way: Way) {
        let (mut exchange, negotiate) = HostExchange::begin(terms, 3);
        assert!(self.auth_send(&negotiate, way).is_success());
        let reply = exchange.challenged(&self.auth_receive()).unwrap();
        assert!(self.auth_send(&reply, way).is_success());
        if let Some(success2) = exchange.concluded(&self.auth_receive()).unwrap() {
            assert!(self.auth_send(&success2, way).is_success());
        }
    }
}
