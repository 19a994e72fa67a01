//! Where a process belongs: its control group, and the unit or container that the group's path names.

/// A control group with what its path says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Path of the group within its hierarchy.
    pub cgroup: String,
    /// systemd unit that the path names.
    pub unit: Option<String>,
    /// Container id that the path names: 64 hexadecimal digits.
    pub container_id: Option<String>,
}

/// Hierarchies of version 1 in the order in which their path says most about the process.
const V1_CONTROLLERS: &[&str] = &[
    "name=systemd",
    "memory",
    "cpu",
    "cpu,cpuacct",
    "cpuacct",
    "pids",
    "devices",
];
/// Kinds of units that processes run in, the most telling first.
const UNIT_SUFFIXES: &[&str] = &[".service", ".scope", ".socket", ".mount"];
const CONTAINER_ID_DIGITS: usize = 64;

impl Placement {
    /// Reads the lines of /proc/PID/cgroup, `hierarchy:controllers:path`. The unified hierarchy counts when it is
    /// in use; on a host with version 1 the first hierarchy with a path of its own does.
    pub(crate) fn from_proc(text: &str) -> Option<Placement> {
        let mut paths: Vec<(&str, &str)> = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            if let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) {
                paths.push((controllers, path));
            }
        }
        let of = |wanted: &str| {
            paths
                .iter()
                .find(|(controllers, _)| *controllers == wanted)
                .map(|(_, path)| *path)
        };
        let own = |path: &&str| *path != "/";
        let chosen = of("")
            .filter(own)
            .or_else(|| {
                V1_CONTROLLERS
                    .iter()
                    .find_map(|controller| of(controller).filter(own))
            })
            .or_else(|| paths.first().map(|(_, path)| *path))?;
        Some(Self::from_path(chosen))
    }

    /// Reads what the path of a control group names.
    pub(crate) fn from_path(path: &str) -> Placement {
        let components = || path.rsplit('/').filter(|component| !component.is_empty());
        let container_id = components().find_map(container_id);
        let is_container = |component: &&str| self::container_id(component).is_none();
        let unit = UNIT_SUFFIXES.iter().find_map(|suffix| {
            components()
                .filter(is_container)
                .find(|component| component.ends_with(suffix))
        });
        Placement {
            cgroup: path.to_owned(),
            unit: unit.map(str::to_owned),
            container_id,
        }
    }
}

/// The run of exactly 64 hexadecimal digits in `docker-<id>.scope`, `<id>`, `cri-containerd-<id>.scope`, …
fn container_id(component: &str) -> Option<String> {
    component
        .split(|character: char| !matches!(character, '0'..='9' | 'a'..='f'))
        .find(|run| run.len() == CONTAINER_ID_DIGITS)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bc191d668a28fbd06382aa6702f8b934bc191d668a28fbd06382aa6702f8b93";

    #[test]
    fn unit_is_the_service_of_the_unified_path() {
        let placement = Placement::from_proc("0::/system.slice/nginx.service\n").unwrap();
        assert_eq!(placement.unit.as_deref(), Some("nginx.service"));
        assert_eq!(
            (placement.cgroup.as_str(), placement.container_id),
            ("/system.slice/nginx.service", None)
        );
        let user = Placement::from_path("/user.slice/user-0.slice/user@0.service/app.slice/dbus.service");
        assert_eq!(user.unit.as_deref(), Some("dbus.service"));
        let session = Placement::from_path("/user.slice/user-0.slice/session-3.scope");
        assert_eq!(session.unit.as_deref(), Some("session-3.scope"));
    }

    #[test]
    fn container_is_found_in_the_forms_of_the_runtimes() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
        ] {
            let placement = Placement::from_path(&path);
            assert_eq!(placement.container_id.as_deref(), Some(ID), "{path}");
            assert_eq!(placement.unit, None, "{path}");
        }
    }

    #[test]
    fn hierarchy_with_a_path_of_its_own_is_chosen_on_version_1() {
        let text = "9:name=systemd:/\n8:pids:/\n4:memory:/web/one\n1:cpu:/\n0::/\n";
        assert_eq!(Placement::from_proc(text).unwrap().cgroup, "/web/one");
        assert_eq!(Placement::from_proc("1:cpu:/\n0::/\n").unwrap().cgroup, "/");
        assert_eq!(Placement::from_proc(""), None);
    }
}
