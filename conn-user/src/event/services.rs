//! Names of services by their ports, for people: those that a responder wants to recognize at once.

/// By port, in its order. The names of IANA's registry, else of the program that made the port known.
const SERVICES: &[(u16, &str)] = &[
    (21, "ftp"),
    (22, "ssh"),
    (23, "telnet"),
    (25, "smtp"),
    (53, "domain"),
    (80, "http"),
    (88, "kerberos"),
    (110, "pop3"),
    (111, "sunrpc"),
    (135, "msrpc"),
    (139, "netbios-ssn"),
    (143, "imap"),
    (179, "bgp"),
    (389, "ldap"),
    (443, "https"),
    (445, "smb"),
    (465, "smtps"),
    (514, "shell"),
    (515, "printer"),
    (587, "submission"),
    (631, "ipp"),
    (636, "ldaps"),
    (853, "dns-tls"),
    (873, "rsync"),
    (989, "ftps-data"),
    (990, "ftps"),
    (993, "imaps"),
    (995, "pop3s"),
    (1080, "socks"),
    (1433, "mssql"),
    (1521, "oracle"),
    (1883, "mqtt"),
    (2049, "nfs"),
    (2375, "docker"),
    (2376, "docker-tls"),
    (2379, "etcd"),
    (2380, "etcd-peer"),
    (3128, "squid"),
    (3260, "iscsi"),
    (3306, "mysql"),
    (3389, "rdp"),
    (4505, "salt"),
    (4506, "salt"),
    (4646, "nomad"),
    (5060, "sip"),
    (5222, "xmpp"),
    (5432, "postgresql"),
    (5601, "kibana"),
    (5671, "amqps"),
    (5672, "amqp"),
    (5900, "vnc"),
    (5985, "winrm"),
    (5986, "winrm-tls"),
    (6379, "redis"),
    (6443, "kubernetes"),
    (6667, "irc"),
    (6697, "ircs"),
    (8200, "vault"),
    (8300, "consul"),
    (8500, "consul"),
    (8883, "mqtts"),
    (9042, "cassandra"),
    (9050, "tor"),
    (9092, "kafka"),
    (9100, "node-exporter"),
    (9200, "elasticsearch"),
    (9300, "elasticsearch"),
    (10250, "kubelet"),
    (11211, "memcached"),
    (27017, "mongodb"),
];

/// The service that a TCP port is known for. Anybody may listen there: it is no proof.
pub(crate) fn name(port: u16) -> Option<&'static str> {
    SERVICES.binary_search_by_key(&port, |(port, _)| *port).ok().map(|at| SERVICES[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_in_order_and_found() {
        assert!(SERVICES.is_sorted_by(|one, other| one.0 < other.0));
        assert_eq!((name(22), name(443), name(40_000)), (Some("ssh"), Some("https"), None));
    }
}
