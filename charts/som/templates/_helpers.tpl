{{- /* One installation serves a cluster, so names are fixed and policies can name accounts. */ -}}

{{- define "som.labels" -}}
app.kubernetes.io/name: som
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The labels of an object that has some of its own, which win: (dict "own" .labels "root" $). */ -}}
{{- define "som.labelsWith" -}}
{{- toYaml (merge (dict) .own (include "som.labels" .root | fromYaml)) -}}
{{- end -}}

{{- /* What selects the pods of a component: (dict "component" "agent"). */ -}}
{{- define "som.selector" -}}
app.kubernetes.io/name: som
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* A pod's image: (dict "image" .Values.images.agent "root" $). */ -}}
{{- define "som.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "som.pullSecrets" -}}
{{- with .Values.images.pullSecrets -}}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* The user name of a service account of this release: (dict "name" "som-agent" "root" $). */ -}}
{{- define "som.user" -}}
system:serviceaccount:{{ .root.Release.Namespace }}:{{ .name }}
{{- end -}}

{{- /* Pods that need nothing of the node fit the restricted Pod Security Standard. */ -}}
{{- define "som.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "som.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Not privileged: root with one capability, and the node's files read-only. */ -}}
{{- define "som.driverPod" -}}
metadata:
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "som.labels" . | nindent 4 }}
    app.kubernetes.io/component: driver
spec:
  restartPolicy: Never
  # Longer than any build; a pod that hangs ends, and the next one begins.
  activeDeadlineSeconds: 1800
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- include "som.pullSecrets" . | nindent 2 }}
  {{- with .Values.driver.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  tolerations: [{operator: Exists}]
  containers:
  - name: driver
    image: {{ include "som.image" (dict "image" .Values.images.driver "root" .) }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    resources:
      {{- toYaml .Values.driver.resources | nindent 6 }}
    securityContext:
      runAsUser: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [SYS_MODULE]}
      seccompProfile: {type: RuntimeDefault}
    volumeMounts:
    - {name: modules, mountPath: /lib/modules, readOnly: true}
    - {name: usr, mountPath: /host/usr, readOnly: true}
    - {name: scratch, mountPath: /tmp}
    {{- if .Values.driver.signingSecret }}
    - {name: signing, mountPath: /etc/som/signing, readOnly: true}
    {{- end }}
  volumes:
  - name: modules
    hostPath: {path: /lib/modules}
  - name: usr
    hostPath: {path: /usr}
  - name: scratch
    emptyDir: {sizeLimit: 256Mi}
  {{- with .Values.driver.signingSecret }}
  - name: signing
    secret: {secretName: {{ . }}, defaultMode: 0400}
  {{- end }}
{{- end -}}

{{- /* Where the operator, and the uninstall, find the pods that load and unload the driver. */ -}}
{{- define "som.driverVolume" -}}
{{- if .Values.driver.load -}}
volumes:
- name: driver
  configMap: {name: som-driver}
{{- end -}}
{{- end -}}

{{- define "som.driverMount" -}}
{{- if .Values.driver.load -}}
volumeMounts:
- {name: driver, mountPath: /etc/som/driver, readOnly: true}
{{- end -}}
{{- end -}}

{{- /* An operator that elects no leader (0.1) ends before the first one that does begins. Helm alone
can ask the cluster. */ -}}
{{- define "som.operatorStrategy" -}}
{{- $there := lookup "apps/v1" "Deployment" .Release.Namespace "som-operator" -}}
{{- $elects := lookup "coordination.k8s.io/v1" "Lease" .Release.Namespace "som-operator" -}}
{{- if and $there (not $elects) -}}
type: Recreate
{{- else -}}
type: RollingUpdate
rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- end -}}
{{- end -}}
