{{- /* One installation serves a cluster, so names are fixed and policies can name accounts. */ -}}

{{- define "som.labels" -}}
app.kubernetes.io/name: som
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
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
