{{- define "llmemb.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "llmemb.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "llmemb.labels" -}}
{{ include "llmemb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* What no schema can say: of these one, and one alone, has to be given. */ -}}
{{- define "llmemb.check" -}}
{{- if eq (empty .Values.bundle.claim) (empty .Values.bundle.pull.repository) -}}
{{- fail "name either bundle.claim, a PersistentVolumeClaim with bundles, or bundle.pull.repository, a bundle on the Hugging Face Hub" -}}
{{- end -}}
{{- if eq (empty .Values.redis.url) (empty .Values.redis.secret.name) -}}
{{- fail "name either redis.url or redis.secret.name: replicas share one Redis or Valkey" -}}
{{- end -}}
{{- if eq (empty .Values.keys.secret) (not .Values.open) -}}
{{- fail "either name keys.secret, a Secret with API keys, or set open: true, if something else guards the service" -}}
{{- end -}}
{{- end -}}

{{- define "llmemb.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
