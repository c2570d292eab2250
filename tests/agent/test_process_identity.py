"""Whose a process is: control groups of every shape, environments that may be read or not, and texts meant to mislead."""

from __future__ import annotations

from pathlib import Path

import pytest
from process_tree import ProcessTree

from warpline_agent.parsers.cgroup import Grouped, grouped
from warpline_agent.process_identity import UNREADABLE, Identities
from warpline_hook.identity import identity

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
UID = "74c13223-5a00-11e9-b385-42010a80018d"
IN_SYSTEMD = UID.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5:devices:/slurm/uid_1000/job_123/step_0/task_0\n1:name=systemd:/x", Grouped("123.0", 1000)),
        ("5:memory:/slurm_node7/uid_1000/job_123/step_12", Grouped("123.12", 1000)),
        ("2:cpu:/slurm/uid_1/job_9\n1:memory:/slurm/uid_1/job_9/step_3/task_0", Grouped("9.3", 1)),
        ("0::/system.slice/slurmstepd.scope/job_123/step_0/user/task_0", Grouped("123.0")),
        ("0::/system.slice/n7_slurmstepd.scope/job_123/step_batch/user/task_0", Grouped("123")),
        ("0::/system.slice/slurmstepd.scope/job_123/step_extern/user/task_special", Grouped("123")),
        ("0::/system.slice/slurmstepd.scope/job_123/step_interactive/user/task_0", Grouped("123.4294967290")),
        ("0::/../../../slurmstepd.scope/job_5/step_1/user", Grouped("5.1")),
        (f"4:memory:/kubepods/burstable/pod{UID}/{ID}", Grouped(pod=UID, container=ID)),
        (f"4:memory:/kubepods/pod{UID}/{ID}", Grouped(pod=UID, container=ID)),
        (
            f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{IN_SYSTEMD}.slice/cri-containerd-{ID}.scope",
            Grouped(pod=UID, container=ID),
        ),
        (
            f"0::/kubepods.slice/kubepods-pod{IN_SYSTEMD}.slice/crio-{ID}.scope/container",
            Grouped(pod=UID, container=ID),
        ),
        (
            f"0::/../../kubepods-besteffort-pod{IN_SYSTEMD}.slice/docker-{ID}.scope",
            Grouped(pod=UID, container=ID),
        ),
        (
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
            f"kubelet-kubepods-besteffort-pod{IN_SYSTEMD}.slice/cri-containerd-{ID}.scope",
            Grouped(pod=UID, container=ID),
        ),
        (
            f"0::/system.slice/containerd.service/kubepods-burstable-pod{IN_SYSTEMD}.slice:cri-containerd:{ID}",
            Grouped(pod=UID, container=ID),
        ),
        (f"0::/kubepods/besteffort/pod{STATIC}/{ID}", Grouped(pod=STATIC, container=ID)),
        (f"7:cpu:/docker/{ID}", Grouped(container=ID)),
        (f"0::/system.slice/docker-{ID}.scope", Grouped(container=ID)),
        (f"0::/user.slice/user-7.slice/user@7.service/user.slice/libpod-{ID}.scope/container", Grouped(container=ID)),
        (
            f"0::/kubepods.slice/kubepods-pod{IN_SYSTEMD}.slice/cri-containerd-{ID}.scope/system.slice/slurmstepd.scope/"
            "job_12/step_0/user/task_0",
            Grouped("12.0", None, UID, ID),
        ),
        ("0::/init.scope", Grouped()),
        ("", Grouped()),
    ],
)
def test_groups_of_every_scheduler_and_runtime_are_understood(text: str, found: Grouped) -> None:
    assert grouped(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "0::/user.slice/user-1000.slice/user@1000.service/slurm/uid_0/job_1/step_0",
        "0::/user.slice/user-1000.slice/user@1000.service/system.slice/slurmstepd.scope/job_1/step_0",
        f"0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/x",
        "0::/slurm/uid_1000/job_99999999999999999999/step_0",
        "0::/slurm/uid_x/job_1",
        "0::/slurmstepd.scope/job_-1/step_0",
        "0::/kubepods/pod../../etc/passwd",
        f"0::/kubepods/pod{UID}x/{ID}x",
        "0::/" + "slurm_" * 100_000,
        "0::/" + "a/" * 100_000 + "slurm/uid_1/job_1/step_0",
        "\0\x1b]0;owned\x07:::",
        "1:a:/x\n" * 10_000 + "0::/slurm/uid_1/job_1/step_0",
        "job_1",
    ],
)
def test_groups_that_users_may_name_or_nobody_made_are_not_believed(text: str) -> None:
    assert grouped(text) == Grouped()


@pytest.fixture
def tree(tmp_path: Path) -> ProcessTree:
    return ProcessTree(tmp_path)


SRUN = {
    "SLURM_JOB_ID": "123", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "5",
    "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_ACCOUNT": "physics", "HF_TOKEN": "hf_verysecretverysecret",
}  # fmt: skip
TASK = "0::/system.slice/slurmstepd.scope/job_123/step_0/user/task_5"
POD = f"0::/kubepods.slice/kubepods-pod{IN_SYSTEMD}.slice/cri-containerd-{ID}.scope"


def test_a_slurm_task_is_known_by_its_environment_as_its_hook_would_tell_it(tree: ProcessTree) -> None:
    tree.add(70, ticks=900, uid=0, name="python3", cgroup=TASK, environment=SRUN)
    told = Identities(tree.proc).identity(70)
    assert (told.job, told.rank, told.account, told.scheduler) == ("123.0", 5, "physics", "slurm")
    assert (told.user, told.process, told.start_ticks) == ("root", "python3", 900)
    assert (told.job, told.rank) == (identity(SRUN)["job"], identity(SRUN)["rank"])
    assert told.evidence == "SLURM_JOB_ID, SLURM_STEP_ID of its environment; cgroup"
    assert "hf_" not in repr(told), "nothing but the named variables is taken"


def test_without_the_right_to_read_its_environment_the_control_group_alone_tells(tree: ProcessTree) -> None:
    tree.add(70, uid=0, cgroup=TASK)
    tree.close_environment(70)
    told = Identities(tree.proc).identity(70)
    assert (told.job, told.user, told.rank, told.account) == ("123.0", "root", None, None)
    assert (told.readable, told.evidence) == (False, f"cgroup; {UNREADABLE}")


def test_an_environment_that_claims_another_slurm_job_is_not_believed(tree: ProcessTree) -> None:
    tree.add(70, cgroup=TASK, environment={**SRUN, "SLURM_JOB_ID": "7", "WARPLINE_JOB": "theirs"})
    told = Identities(tree.proc).identity(70)
    assert (told.job, told.account, told.claims_other) == ("123.0", None, True)
    assert "not believed" in told.evidence


def test_a_job_that_was_given_a_name_bears_it_in_slurm_too(tree: ProcessTree) -> None:
    tree.add(70, cgroup=TASK, environment={**SRUN, "WARPLINE_JOB": "mine"})
    assert Identities(tree.proc).identity(70).job == "mine"


def test_a_pod_is_known_by_the_kubelets_folder_and_else_by_what_it_was_given(tree: ProcessTree) -> None:
    given = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "claimed-0", "RANK": "1", "WORLD_SIZE": "4",
             "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "night"}  # fmt: skip
    tree.add(70, uid=1000, cgroup=POD, environment=given)
    tree.pods.mkdir()
    without = Identities(tree.proc, "n0", str(tree.pods)).identity(70)
    assert (without.pod, without.account, without.scheduler) == ("claimed-0", None, "kubernetes")
    (tree.pods / f"research_trainer-0_{UID}").mkdir()
    told = Identities(tree.proc, "n0", str(tree.pods)).identity(70)
    assert (told.pod, told.account, told.job, told.rank) == ("trainer-0", "research", "night", 1)
    assert (told.container, told.user) == (ID, "uid 1000"), "a number within a container is no user of this machine"


def test_a_pod_on_the_nodes_network_is_not_called_by_the_nodes_name(tree: ProcessTree) -> None:
    tree.add(70, cgroup=POD, environment={"HOSTNAME": "n0"})
    tree.add(71, cgroup=POD, environment={"HOSTNAME": "n0", "POD_NAME": "a", "POD_NAMESPACE": "b"})
    identities = Identities(tree.proc, "n0", str(tree.pods))
    assert identities.identity(70).pod == UID
    assert (identities.identity(71).pod, identities.identity(71).account) == ("a", "b")


@pytest.mark.parametrize(
    ("environment", "job", "rank", "scheduler"),
    [
        ({"WARPLINE_JOB": "mine"}, "mine", None, "launcher"),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "night"}, "night", 3, "launcher"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", "WARPLINE_RUN": "r",
          "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}, "localhost:29500/r", 1, "launcher"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none",
          "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}, None, 1, "launcher"),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_NAMESPACE": "prterun-7"}, "prterun-7", 2, "launcher"),
        ({}, None, None, "none"),
    ],
)  # fmt: skip
def test_launchers_are_understood_and_a_launch_without_a_name_has_none(
    tree: ProcessTree, environment: dict[str, str], job: str | None, rank: int | None, scheduler: str
) -> None:
    tree.add(70, environment=environment)
    told = Identities(tree.proc).identity(70)
    assert (told.job, told.rank, told.scheduler) == (job, rank, scheduler)


def test_hostile_environments_neither_fail_nor_get_through(tree: ProcessTree) -> None:
    tree.add(70, environment={"RANK": "²", "SLURM_PROCID": "9" * 4000, "WARPLINE_JOB": "x" * 9000})
    tree.write(71, "environ", b"\0\0=\0RANK\0WARPLINE_JOB=\xff\xfe\0WARPLINE_JOB=second\0" + b"A" * 300_000)
    assert (told := Identities(tree.proc).identity(70)).job == "x" * 200 and told.rank is None
    tree.add(71, keep=True)
    assert Identities(tree.proc).identity(71).job == "\ufffd\ufffd"


def test_a_process_that_is_gone_or_replaced_while_it_is_read_is_nobody(tree: ProcessTree) -> None:
    assert Identities(tree.proc).identity(70).start_ticks is None

    class Replaced(Identities):
        def ticks(self, pid: int) -> int | None:
            found = super().ticks(pid)
            tree.add(pid, ticks=(found or 0) + 1, environment={"WARPLINE_JOB": "another"})
            return found

    tree.add(70, environment={"WARPLINE_JOB": "first"})
    told = Replaced(tree.proc).identity(70)
    assert (told.job, told.user, told.start_ticks) == (None, None, None)


def test_in_a_pid_namespace_of_its_own_only_who_holds_a_gpu_is_believed_to_be_meant(tree: ProcessTree) -> None:
    tree.namespace("pid:[4026532999]")
    tree.add(70, environment={"WARPLINE_JOB": "bystander"})
    tree.add(71, environment={"WARPLINE_JOB": "trainer"}, files=("/dev/null", "/dev/nvidia0"))
    identities = Identities(tree.proc)
    assert (identities.identity(70).job, identities.identity(71).job) == (None, "trainer")
    assert "pid namespace of its own" in identities.identity(70).evidence
