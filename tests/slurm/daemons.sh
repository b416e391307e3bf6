# Functions of run.sh: SLURM and munge on 127.0.0.1 with a configuration of their own, started and stopped by pid.
# The jobs of a run find the configuration at /etc/slurm/slurm.conf alone (the plugin takes SLURM_* from their
# environment), so a link is placed there and taken away again; where a file is there already, nothing is touched.

SLURM_CONF_PLACE=/etc/slurm/slurm.conf
PORT=${PORT:-16817}
pids=()

install_slurm() { # prints why not, and fails, where it cannot be had
  [[ $(uname -s) == Linux && $(id -u) == 0 ]] || { echo "needs root on Linux"; return 1; }
  [[ ! -e $SLURM_CONF_PLACE && ! -L $SLURM_CONF_PLACE ]] || { echo "$SLURM_CONF_PLACE is there: this machine has a SLURM"; return 1; }
  command -v slurmctld slurmd munged srun >/dev/null && return 0
  command -v apt-get >/dev/null || { echo "no apt-get, and slurmctld, slurmd or munged is missing"; return 1; }
  # Services of packages must not start by themselves: this test starts its own.
  local policy=/usr/sbin/policy-rc.d placed=
  [[ -e $policy ]] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && placed=1; }
  (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge) >&2 || true
  [[ -z $placed ]] || rm -f $policy
  command -v slurmctld slurmd munged srun >/dev/null || { echo "apt-get cannot install slurm-wlm and munge here"; return 1; }
  [[ ! -e $SLURM_CONF_PLACE ]] || { echo "$SLURM_CONF_PLACE came with the package"; return 1; }
}

write_configuration() { # FOLDER
  local host cpus
  host=$(hostname -s) cpus=$(nproc)
  printf 'NodeName=%s Name=gpu File=%s\n' "$host" /dev/null "$host" /dev/zero >"$1/gres.conf" # any two devices
  cat >"$1/slurm.conf" <<CONF
ClusterName=ovss
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$1/munge.socket
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
MinJobAge=7200
KillWait=2
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
}

start_slurm() { # FOLDER: returns when a job has run
  local at=$1/daemons
  mkdir -p "$at"/{state,spool} && chmod 0755 "$1"
  write_configuration "$at"
  mkdir -p "$(dirname $SLURM_CONF_PLACE)"
  ln -s "$at/slurm.conf" $SLURM_CONF_PLACE
  (umask 077 && dd if=/dev/urandom of="$at/munge.key" bs=128 count=1 status=none)
  munged --foreground --force --key-file="$at/munge.key" --socket="$at/munge.socket" --pid-file="$at/munged.pid" \
    --log-file="$at/munged.log" --seed-file="$at/munge.seed" >"$at/munged.out" 2>&1 &
  pids+=($!)
  until [[ -S $at/munge.socket ]]; do kill -0 "${pids[-1]}" && sleep 0.2 || return 1; done
  slurmctld -D -c -f "$at/slurm.conf" >"$at/slurmctld.out" 2>&1 &
  pids+=($!)
  slurmd -D -f "$at/slurm.conf" >"$at/slurmd.out" 2>&1 &
  pids+=($!)
  for _ in {1..30}; do
    timeout 10 srun --ntasks=1 true 2>/dev/null && return 0
    sleep 1
  done
  return 1
}

stop_slurm() {
  [[ ! -L $SLURM_CONF_PLACE || $(readlink $SLURM_CONF_PLACE) != "$FOLDER"/* ]] && return 0
  scancel --user="$(id -un)" 2>/dev/null || true
  for _ in {1..40}; do # the steps of a job are children of nobody: only SLURM can end them
    [[ -n $(squeue --noheader --states=RUNNING,COMPLETING 2>/dev/null) ]] && sleep 0.5 || break
  done
  local number pid
  for ((number = ${#pids[@]} - 1; number >= 0; number--)); do
    kill "${pids[number]}" 2>/dev/null || true
  done
  for pid in "${pids[@]}"; do
    for _ in {1..50}; do kill -0 "$pid" 2>/dev/null && sleep 0.2 || break; done
    kill -9 "$pid" 2>/dev/null || true
  done
  rm -f $SLURM_CONF_PLACE
  rmdir --ignore-fail-on-non-empty "$(dirname $SLURM_CONF_PLACE)" 2>/dev/null || true
}

two_gpus_differ() { # two jobs at once, one GPU each: each is told of another one
  local ids
  ids=$({ srun --ntasks=1 --mem=10 --gpus=1 sh -c 'echo $CUDA_VISIBLE_DEVICES; sleep 3' &
    srun --ntasks=1 --mem=10 --gpus=1 sh -c 'echo $CUDA_VISIBLE_DEVICES; sleep 3' & wait; } | sort | tr '\n' ' ')
  [[ $(nproc) == 1 || $ids == "0 1 " ]] || { echo "test-slurm: two jobs at once were told to use the GPUs '$ids'" >&2; return 1; }
  echo "test-slurm: two jobs at once use the GPUs $ids"
}

ended_jobs() {
  squeue --states=COMPLETED --noheader --format=%j | grep --count -E '^[0-9a-f]{8}-' || true
}
