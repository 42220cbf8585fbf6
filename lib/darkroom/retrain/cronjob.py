"""A plain CronJob of Kubernetes' own, whose pod creates the RayJob of a tick; and what that pod may do."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime

import yaml

from darkroom.retrain.rayjob import Object
from darkroom.retrain.schema import Schedule
from darkroom.retrain.times import fires_after

FILE = "rayjob.yaml"
_MOST_MISSED = 99  # Kubernetes starts nothing any more where 100 ticks were missed within the deadline
_WEEK = 7 * 24 * 3600
HEAD = """\
# A small pod creates the tick's RayJob. It may create RayJobs and nothing else; yet whoever may do that can run any
# code in this namespace. A night whose hour is missing, where clocks go forward, is left out by Kubernetes; what it
# starts a second time in a doubled hour is the same tick, and does nothing. The history's limits are those of the
# RayJobs too; to delete the CronJob and keep a RayJob that runs: kubectl delete --cascade=orphan.
"""
RIGHTS = """\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: darkroom-schedule
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: darkroom-schedule
rules:
  - {apiGroups: [ray.io], resources: [rayjobs], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: darkroom-schedule
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: darkroom-schedule}
subjects:
  - {kind: ServiceAccount, name: darkroom-schedule}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: from-the-schedule
spec:
  podSelector: {matchLabels: {app.kubernetes.io/component: schedule}}
  policyTypes: [Egress]
  egress:
    - to: [{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}}]
      ports:
        - {protocol: TCP, port: 443}
        - {protocol: TCP, port: 6443}
"""
# The project's own image: it knows the schedule, no other does, and kubectl's images have no shell for a tick's name.
# It is large, and a node may have to start for it: half an hour, as the RayJob's pods have. Then the tick is lost.
CRONJOB = """\
apiVersion: batch/v1
kind: CronJob
metadata: {}
spec:
  schedule:
  timeZone:
  concurrencyPolicy: Forbid
  startingDeadlineSeconds:
  successfulJobsHistoryLimit:
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: 5
      activeDeadlineSeconds: 1800
      template:
        metadata:
          labels:
            app.kubernetes.io/part-of: darkroom
            app.kubernetes.io/component: schedule
        spec:
          serviceAccountName: darkroom-schedule
          automountServiceAccountToken: true
          restartPolicy: Never
          securityContext:
            runAsNonRoot: true
            runAsUser: 1000
            runAsGroup: 1000
            fsGroup: 1000
            seccompProfile: {type: RuntimeDefault}
          containers:
            - name: create-rayjob
              image:
              command: [python, /app/jobs/schedule.py, create, /etc/darkroom/rayjob.yaml]
              env:
                - name: JOB_NAME
                  valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}
                - name: JOB_UID
                  valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/controller-uid']"}}
              securityContext:
                allowPrivilegeEscalation: false
                readOnlyRootFilesystem: true
                capabilities: {drop: [ALL]}
              resources:
                requests: {cpu: 250m, memory: 512Mi}
                limits: {cpu: "1", memory: 512Mi}
              volumeMounts:
                - {name: tmp, mountPath: /tmp}
                - {name: rayjob, mountPath: /etc/darkroom, readOnly: true}
          volumes:
            - {name: tmp, emptyDir: {sizeLimit: 100Mi}}
            - {name: rayjob, configMap: {}}
"""


def rights() -> list[Object]:
    """The creator's account, what it may do, and its way to Kubernetes' API: the same for every schedule."""
    return list(yaml.safe_load_all(RIGHTS))


def cron_job(config_map: str, schedule: Schedule, image: str, job_spec: Object) -> Object:
    """The CronJob, without its metadata. config_map: holds the RayJob as `FILE`; job_spec: the RayJob's."""
    found = yaml.safe_load(CRONJOB)
    step = _shortest_step(schedule)
    in_time = schedule.deadline_seconds if schedule.missed == "none" else min(_MOST_MISSED * step, max(step, _WEEK))
    # A Job that falls out of the history takes its RayJob along, which must have ended by then.
    longest = job_spec.get("activeDeadlineSeconds", 86400) * (1 + job_spec.get("backoffLimit", 0))
    found["spec"] |= {
        "schedule": schedule.cron,
        "timeZone": schedule.time_zone,
        "startingDeadlineSeconds": max(in_time, 60),  # Kubernetes looks each 10 seconds
        "successfulJobsHistoryLimit": max(7, math.ceil(longest / step) + 1),
    }
    pod = found["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = image
    pod["containers"][0]["command"] += ["--cron", schedule.cron, "--time-zone", schedule.time_zone]
    pod["volumes"][1]["configMap"]["name"] = config_map
    return found


def _shortest_step(schedule: Schedule) -> int:
    """Seconds between two ticks, where they are closest."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    fires = list(itertools.islice(fires_after(schedule.cron, schedule.time_zone, start), 200))
    return min(int((later - one).total_seconds()) for one, later in itertools.pairwise(fires))
