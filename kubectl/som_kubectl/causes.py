"""What each failure means and what to do about it: docs/how-to/troubleshoot.md, for a program.

A test walks that page and looks each of its lines up here.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Final


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """What something means, in a sentence, and the cure; "" where nothing has to be done."""

    meaning: str
    cure: str = ""


_AGENT_LOG: Final = "see its pod and its log: kubectl som status, kubectl logs"
_WAIT: Final = "wait; nothing has to be done"

OF_POOLS: Final[dict[str, Cause]] = {
    "NoNodes": Cause(
        "The pool's selector matches no node, or no agent runs anywhere",
        "compare nodeSelector with the labels of your nodes, and look at the DaemonSet som-agent",
    ),
    "Reserving": Cause("The nodes are reserving it", _WAIT),
    "PartlyReserved": Cause(
        "Nodes have less than is ordered, a container runtime that is too old, or a SomNode that "
        "cannot be read",
        "fragmented memory: make the pool right after boot, or of pages of 2Mi; too little memory: "
        "a smaller capacity",
    ),
    "AgentNotReady": Cause(
        "A node's agent has not been ready for a minute, so no container with som memory starts "
        "there",
        _AGENT_LOG,
    ),
    "Conflicted": Cause(
        "Another pool feeds the same unit on some nodes", "give the pools selectors without overlap"
    ),
    "Paused": Cause("spec.paused is true: nothing of it is changed", "set paused: false"),
    "Releasing": Cause("Somebody has deleted it, and its memory is still held", "end these pods"),
    "Unreachable": Cause("No kubelet of its nodes is ready", "bring the nodes back"),
    "NotSeen": Cause("The operator has not looked at it yet", "see that the operator runs"),
    "Unreadable": Cause(
        "This version of kubectl som cannot read it: another version has written it",
        "use the kubectl som of the installed release",
    ),
}

OF_POOLS_ON_A_NODE: Final[dict[str, Cause]] = {
    **OF_POOLS,
    "Refused": Cause(
        "The node cannot do what is ordered: too little memory would stay available for it, or "
        "the pool has memory of another source or driver",
        "the message names the largest capacity, or the other way",
    ),
    "DriverNotLoaded": Cause(
        "The pool needs som.ko, which is not loaded; the agent looks again every 10 s",
        "see the node's condition DriverLoaded",
    ),
    "KernelUnsafe": Cause(
        "Any user could crash this kernel with memory of this source, so som.ko refuses it",
        "use a kernel that the message names, or source hugeTLB",
    ),
}

OF_NODES: Final[dict[str, Cause]] = {
    "NoSomNode": Cause(
        "No pool is ordered there", "a pool whose nodeSelector matches the node's labels"
    ),
    "NoNode": Cause(
        "The Node of this name is gone, and its SomNode goes with it", "see that the operator runs"
    ),
    "KubeletNotReady": Cause(
        "The node does not report, so nothing is known about it", "bring the node back"
    ),
    "NoReport": Cause(
        "No agent has reported about this SomNode", f"is its agent running? {_AGENT_LOG}"
    ),
    "Unreadable": Cause(
        "Its SomNode cannot be read",
        "repair what wrote it, or kubectl delete somnode: the operator makes it again",
    ),
    "Ready": Cause(
        "One of the node's pools has less than is ordered", "see the pool's own condition"
    ),
    "Degraded": Cause(
        "A lease needs a look: LeaseHeld (it has ended, and somebody still holds pages), "
        "LeaseDamaged (its container truncated it, or somebody removed its cgroup), MountLost "
        "(somebody unmounted it), StrayMount (nobody knows a mount or a lease of som)",
        "end the holder, or restart the container; a stray mount goes at the next boot or by "
        "umount",
    ),
    "Blocked": Cause(
        "The agent reserves nothing and gives nothing back: kubelet's memoryManagerPolicy is "
        "Static (MemoryManagerStatic), or kubelet is not where the agent looks (KubeletNotFound)",
        "change the policy as the message says, or the chart's agent.kubeletRootDir",
    ),
    "PodsUnlimited": Cause(
        "Pods run without a hugetlb limit, and can take pages that they did not request",
        "mount the hugetlb controller before container runtime and kubelet start",
    ),
    "RuntimeUnfit": Cause(
        "The node's container runtime would start containers without their memory",
        "upgrade to containerd 2.0 or newer",
    ),
    "AgentReady": Cause(
        "The node's agent has not been ready for a minute, although kubelet is: no container with "
        "som memory starts there; running pods keep their memory",
        "AgentMissing: compare the node's labels and taints with agent.nodeSelector and "
        f"agent.tolerations; AgentNotReady: {_AGENT_LOG}",
    ),
    "DriverLoaded": Cause(
        "The node needs som.ko and does not have it",
        "docs/how-to/kernel-driver.md says what each reason means",
    ),
    "BooksPending": Cause(
        "kubelet counts memory only when it starts, and its books disagree with the pools",
        "NotCounted, StillCounted: restart kubelet once the node's pods request that much less; "
        "OfferedTwice: keep pods with native huge pages off the node",
    ),
}

OF_EVENTS: Final[dict[str, Cause]] = {
    "HugePagesRewritten": Cause(
        "Another program wrote nr_hugepages, and som added its own pages again",
        "find the program if it happens often; who needs more writes som's pages plus his own",
    ),
    "HugePagesTakenAway": Cause(
        "Other programs have fewer huge pages than were set for them; som's are complete",
        "write som's pages plus theirs to nr_hugepages, unless they gave them back",
    ),
    "HugePagesCounted": Cause(
        "The agent ended while it changed nr_hugepages; pages that it may have added count as "
        "the pool's",
        "if another program added pages in that moment, write its number on top again",
    ),
    "HugePagesLost": Cause(
        "Memory errors took pages, and the agent is replacing them", "check the machine's memory"
    ),
    "HugePagesOvercommit": Cause(
        "vm.nr_overcommit_hugepages is above 0, and the agent reserves no pool",
        "set it to 0, also in /etc/sysctl.d",
    ),
    "PoolLost": Cause(
        "som.ko no longer has memory that the agent gave it, and the agent adds it again",
        "find who loads modules on this node",
    ),
    "LeaseHeld": Cause(
        "A lease has ended, and somebody still holds pages of it", "end who the message names"
    ),
    "ContentKept": Cause(
        "A container restarted while the agent was away, and found its old bytes",
        "restart it if its program relies on zeroes",
    ),
    "LeaseLost": Cause(
        "A container's memory in som.ko is gone without a boot", "restart the container"
    ),
    "OtherNumaNode": Cause("A lease got memory of another NUMA node than its ticket's"),
    "TicketFault": Cause("kubelet handed one ticket to two live pods", "delete the newer pod"),
}

OF_MESSAGES: Final[Sequence[tuple[str, Cause]]] = (
    (
        "requests som memory, but got no ticket for it",
        Cause(
            "Somebody has deleted the MutatingAdmissionPolicy som-tickets or its binding",
            "helm upgrade restores it",
        ),
    ),
    (
        "which only app containers and sidecars can have",
        Cause(
            "An init container ends before the program starts, and its memory with it",
            "move the request to the app container, or make it a sidecar with restartPolicy: "
            "Always",
        ),
    ),
    (
        r"requests som\.io/2Mi and som\.io/1Gi",
        Cause("One container can have one unit", "request one of them"),
    ),
    (
        r"requests a som\.io/ resource that does not exist",
        Cause("There are som.io/2Mi and som.io/1Gi, spelt exactly so", "request one of them"),
    ),
    (
        r"som\.io/ticket without memory|more than one som\.io/ticket",
        Cause("Admission adds tickets", "leave som.io/ticket out"),
    ),
    (
        "exceeded quota",
        Cause("The namespace's ResourceQuota forbids it", "request less, or raise the quota"),
    ),
    (
        r"Insufficient som\.io/ticket",
        Cause(
            "The agents of the nodes with free units are down, or 256 containers per NUMA node "
            "hold memory already",
            _AGENT_LOG,
        ),
    ),
    (
        r"Insufficient som\.io/(2Mi|1Gi)",
        Cause(
            "None of the nodes that the pod may run on has so many free units; one container's "
            "units come from one node",
            "a smaller request, more capacity, or more nodes: kubectl som nodes shows what is free",
        ),
    ),
    ("som: warming", Cause("The agent is zeroing the memory", _WAIT)),
    (
        "som: needs .* free of",
        Cause(
            "Somebody still holds memory of ended pods, or the pool is smaller than the books say",
            "end the holders that the message names; (released, still held): a process has pinned "
            "pages",
        ),
    ),
    (
        "som: no pool of this node serves",
        Cause("The agent is reserving the pool, or taking it away", "wait; then explain the pool"),
    ),
    (
        "som: kubelet handed ticket",
        Cause(
            "kubelet gave one ticket to two pods; it harms neither, and the first goes on",
            "delete the newer one",
        ),
    ),
    (
        "endpoint .*has been stopped",
        Cause(
            "The container has ended, and cannot start again while the node's agent is down; it "
            "starts by itself when the agent is back",
            _AGENT_LOG,
        ),
    ),
    (
        "unresolvable CDI devices",
        Cause(
            "The memory of this container is gone, because the agent was away; it starts by "
            "itself when the agent is back",
            "if it comes again and again, let the runtime read /var/run/cdi: cdi_spec_dirs",
        ),
    ),
    (
        "the directory of CDI specs",
        Cause(
            "Somebody deleted /var/run/cdi of the node, or it is full",
            "delete the agent's pod: the next one makes the directory again",
        ),
    ),
    (
        "som: this node's agent has no lease for ticket",
        Cause("Somebody emptied /var/lib/som of the node", "delete the pod"),
    ),
    (
        "som: this node's agent is busy with its pools",
        Cause("The agent is finding huge pages for a pool", _WAIT),
    ),
    (
        "writing the agent's store",
        Cause(
            "The disk of /var/lib/som is full or read-only; nothing is lost",
            "make room: the agent goes on by itself",
        ),
    ),
    (
        "som: the list of this node's pods has not arrived",
        Cause("The agent has just started, and the API server is away", "repair the API server"),
    ),
    (
        r"cannot allocate (unhealthy devices|unregistered device) som\.io/ticket",
        Cause(
            "The node has booted, and kubelet judged its pods before the agent was there",
            "a controller replaces its pods; delete other pods, and create them again",
        ),
    ),
)

NO_TICKET: Final = Cause(
    "The container has no som.io/ticket beside its units, so it found no /dev/som: somebody "
    "created it while both admission policies were deleted",
    "helm upgrade, then delete the pod",
)
FAILED_PROGRAM: Final = Cause(
    "The program ended by itself, and what it met is not to be seen from here: /dev/som missing "
    "(CDI is off in the runtime), mmap with ENOMEM (beyond SOM_BYTES, or MAP_PRIVATE) or EINVAL "
    "(an offset that is no multiple of the page size), write with EINVAL (map the file instead)",
    'see its log, and "The program fails" in docs/how-to/troubleshoot.md',
)
BUS_ERROR: Final = Cause(
    "SIGBUS: the program has truncated /dev/som, so that it has 0 bytes, or it maps beyond the "
    "lease with MAP_NORESERVE",
    "the memory is back when the container restarts; do not open the file for truncation",
)


def of_message(message: str) -> Cause | None:
    """What a message of kubelet, scheduler or API server means, if it is about som."""
    found = (cause for pattern, cause in OF_MESSAGES if re.search(pattern, message, re.S))
    return next(found, None)
