//! Who may connect: the hosts' names, and what hosts and targets prove to each other.

use crate::plan::{Intruder, Plan, Proof};
use crate::stranger;
use nvferry_auth::Secret;
use nvferry_nvmeof::NvmeofOptions;
use nvferry_target::{AllowedHost, AllowedHosts, HostAuth};
use nvferry_wire::auth::DhGroup;
use nvferry_wire::{HostId, Nqn};

fn host_name(host: usize) -> anyhow::Result<Nqn> {
    Ok(Nqn::new(format!("nqn.2016-06.io.mc:host{host}"))?)
}

fn host_secret(host: usize) -> anyhow::Result<Secret> {
    Ok(Secret::from_key(&[host as u8 + 1; 32], None)?)
}

fn controller_secret() -> anyhow::Result<Secret> {
    Ok(Secret::from_key(&[0xCC; 32], None)?)
}

/// Whom targets let in: the hosts and the intruder, if they prove what they should. Without a DH group, which would only
/// take time.
pub(crate) fn of_target(plan: &Plan) -> anyhow::Result<AllowedHosts> {
    if plan.proof == Proof::None {
        return Ok(AllowedHosts::Any);
    }
    let allowed = |host| -> anyhow::Result<AllowedHost> {
        let controller_secret = if plan.proof == Proof::Both { Some(controller_secret()?) } else { None };
        let auth = HostAuth { controller_secret, group: DhGroup::Null, ..HostAuth::new(host_secret(host)?) };
        Ok(AllowedHost { nqn: host_name(host)?, auth: Some(auth) })
    };
    let mut all = (0..=plan.hosts).map(allowed).collect::<anyhow::Result<Vec<_>>>()?;
    all.push(Nqn::new(stranger::NAME)?.into());
    Ok(AllowedHosts::Only(all))
}

/// Who a host is, and what it proves and wants proved.
pub(crate) fn of_host(options: NvmeofOptions, plan: &Plan, host: usize) -> anyhow::Result<NvmeofOptions> {
    let intruder = plan.intruder.map(|(kind, _)| kind).filter(|_| host == plan.hosts);
    let options = options.host_nqn(host_name(host)?).host_id(HostId([host as u8 + 1; 16]));
    if plan.proof == Proof::None || intruder == Some(Intruder::NoSecret) {
        return Ok(options);
    }
    let wrong = if intruder == Some(Intruder::WrongSecret) { 100 } else { 0 };
    let options = options.secret(host_secret(host + wrong)?);
    Ok(match (plan.proof, intruder) {
        (_, Some(Intruder::DoubtsTarget)) => options.controller_secret(host_secret(200)?),
        (Proof::Both, None) => options.controller_secret(controller_secret()?),
        _ => options,
    })
}
