{{/* Name of every object: the release's, with the chart's behind it unless already in it. */}}
{{- define "rapid.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods; never changes during a release's life. */}}
{{- define "rapid.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "rapid.labels" -}}
{{ include "rapid.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "rapid.serviceAccountName" -}}
{{- $own := ternary (include "rapid.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $own .Values.serviceAccount.name -}}
{{- end -}}

{{/* The image: by digest if there is one, else by tag; on GPUs the build for CUDA. */}}
{{- define "rapid.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- if .Values.gpu.enabled -}}
{{- $tag = printf "%s%s" $tag .Values.gpu.imageTagSuffix -}}
{{- end -}}
{{- with .Values.image.digest -}}
{{- printf "%s@%s" $.Values.image.repository . -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{/* A setting as the service reads it: lists with commas, `on` or `off`, whole numbers in full
     (a large one would else come out as 2.68435456e+08). */}}
{{- define "rapid.settingValue" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if kindIs "bool" . -}}
{{- ternary "on" "off" . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* RAPID_* from the settings; what the chart must know better comes from the chart. */}}
{{- define "rapid.settings" -}}
- name: RAPID_HOST
  value: 0.0.0.0
- name: RAPID_PORT
  value: "8000"
- name: RAPID_DEVICE
  value: {{ ternary "cuda" "cpu" .Values.gpu.enabled }}
{{- if .Values.apiKeys.existingSecret }}
- name: RAPID_API_KEYS_FILE
  value: /etc/rapid/api-keys
{{- end }}
{{- range $name := list "num_threads" "decode_threads" }}
{{- if not (hasKey $.Values.settings $name) }}
- name: RAPID_{{ upper $name }} # by itself it would count the cores of the node
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: RAPID_{{ upper $name }}
  value: {{ include "rapid.settingValue" $value | quote }}
{{- end }}
{{- end -}}

{{/* SIGKILL comes only after the service's own way of leaving is over. */}}
{{- define "rapid.gracePeriodSeconds" -}}
{{- $delay := dig "drain_delay_s" 5 .Values.settings -}}
{{- $timeout := dig "drain_timeout_s" 30 .Values.settings -}}
{{- add (ceil $delay) $timeout .Values.terminationSlackSeconds -}}
{{- end -}}

{{/* Of every container. */}}
{{- define "rapid.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
