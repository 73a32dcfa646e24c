use super::*;

#[test]
fn no_call_is_in_both_lists() {
    for call in KILLING {
        assert!(!ALLOWED.contains(call), "{call}");
    }
}

#[test]
fn both_filters_can_be_made() {
    for network in [Network::None, Network::Clients] {
        for rules in [
            killing(1, network).unwrap(),
            allowed(network, Files::Made).unwrap(),
        ] {
            let filter = SeccompFilter::new(
                rules,
                SeccompAction::Allow,
                SeccompAction::KillProcess,
                ARCH,
            );
            assert!(BpfProgram::try_from(filter.unwrap()).is_ok());
        }
    }
}
