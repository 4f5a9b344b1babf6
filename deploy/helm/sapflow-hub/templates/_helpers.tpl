{{- define "hub.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "hub.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "hub.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "hub.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "hub.selector" -}}
app.kubernetes.io/name: {{ include "hub.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hub.labels" -}}
{{ include "hub.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "hub.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "hub.config" -}}
{{- $own := dict "data" "/data" "listen" "127.0.0.1:4223" "metrics" ":9465" -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $own "http" ":8080" -}}
{{- $_ := set $own "leaf" ":7422" -}}
{{- $_ := set $own "tlsCert" "/tls/tls.crt" -}}
{{- $_ := set $own "tlsKey" "/tls/tls.key" -}}
{{- $_ := set $own "leafAdvertise" (required "leafAdvertise: what do gateways dial? Such as tls://hub.example.com:7422" .Values.leafAdvertise) -}}
{{- else -}}
{{- $_ := set $own "http" "127.0.0.1:8080" -}}
{{- $_ := set $own "leaf" "127.0.0.1:7422" -}}
{{- end -}}
{{- toYaml (merge $own (deepCopy .Values.config)) -}}
{{- end }}
