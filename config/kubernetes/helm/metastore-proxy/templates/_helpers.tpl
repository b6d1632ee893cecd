{{- define "metastore-proxy.name" -}}
{{- if contains "metastore-proxy" .Release.Name -}}
{{- .Release.Name | trunc 42 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-metastore-proxy" (.Release.Name | trunc 26 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "metastore-proxy.selector" -}}
app.kubernetes.io/name: metastore-proxy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "metastore-proxy.migrate-selector" -}}
app.kubernetes.io/name: metastore-proxy-migrate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "metastore-proxy.release-labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "metastore-proxy.labels" -}}
{{ include "metastore-proxy.selector" . }}
{{ include "metastore-proxy.release-labels" . }}
{{- end -}}

{{- define "metastore-proxy.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The node config: the file, and over it what the values say. */}}
{{- define "metastore-proxy.config" -}}
{{- toYaml (mergeOverwrite (fromYaml (.Files.Get "files/node.yaml")) .Values.config) -}}
{{- end -}}

{{/* A duration of the config such as `1min 30s` in whole seconds, at least. */}}
{{- define "metastore-proxy.seconds" -}}
{{- $units := dict "d" 86400.0 "h" 3600.0 "m" 60.0 "s" 1.0 "u" 0.001 "n" 0.0 }}
{{- $total := 0.0 }}
{{- range regexFindAll "[0-9.]+ *[a-z]+" (toString . | replace "millis" "u" | replace "msec" "u" | replace "ms" "u") -1 }}
{{- $total = addf $total (mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[a-z]" .) | default 1.0)) }}
{{- end }}
{{- ceil $total }}
{{- end -}}

{{- define "metastore-proxy.cluster" -}}
QW_CLUSTER_ID: {{ .Values.cluster.id | quote }}
QW_PEER_SEEDS: {{ append .Values.cluster.peerSeeds (printf "%s-gossip" (include "metastore-proxy.name" .)) | join "," | quote }}
{{- end -}}

{{/* How Prometheus reaches the REST port. */}}
{{- define "metastore-proxy.scheme" -}}
{{- if ((include "metastore-proxy.config" . | fromYaml).rest).tls }}
scheme: https
{{- with .Values.monitoring.tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The roles that are enabled, and what each of them is. */}}
{{- define "metastore-proxy.roles" -}}
{{- if .Values.readReplica.enabled }}
- component: read-replica
  service: metastore_read_replica
  key: readReplica
  variable: QW_METASTORE_READ_REPLICA_URI
  secret: {{ .Values.secrets.replica | toJson }}
  scales: {{ .Values.autoscaling.enabled }}
{{- end }}
{{- if .Values.router.enabled }}
- component: router
  service: metastore_router
  key: router
  scales: {{ .Values.autoscaling.enabled }}
{{- end }}
{{- if .Values.metastore.enabled }}
- component: metastore
  service: metastore
  key: metastore
  variable: QW_METASTORE_URI
  secret: {{ .Values.secrets.primary | toJson }}
  scales: false
{{- end }}
{{- end -}}

{{- define "metastore-proxy.pod-security" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
fsGroup: {{ .Values.runAsUser }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "metastore-proxy.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "metastore-proxy.ports" -}}
- name: grpc
  port: 7281
  targetPort: grpc
  protocol: TCP
  {{- if not ((include "metastore-proxy.config" . | fromYaml).grpc).tls }}
  appProtocol: kubernetes.io/h2c
  {{- end }}
- name: rest
  port: 7280
  targetPort: rest
  protocol: TCP
{{- end -}}

{{/* The members of the cluster, as peers of a policy: those of every release, and Quickwit's. */}}
{{- define "metastore-proxy.members" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: metastore-proxy
- podSelector:
    matchLabels:
      {{- toYaml .Values.networkPolicy.quickwitLabels | nindent 6 }}
{{- end -}}

{{/* The nodes that calls are passed on to. */}}
{{- define "metastore-proxy.backends" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/name: metastore-proxy
- podSelector:
    matchLabels:
      {{- toYaml .Values.networkPolicy.quickwitLabels | nindent 6 }}
      app.kubernetes.io/component: metastore
{{- end -}}

{{- define "metastore-proxy.to-dns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end -}}

{{/* A rule to a database: `where` is networkPolicy.primary or .replica. */}}
{{- define "metastore-proxy.to-database" -}}
- to:
    {{- if .where.cidr }}
    - ipBlock:
        cidr: {{ .where.cidr }}
    {{- else }}
    - podSelector:
        matchLabels:
          {{- toYaml .where.podLabels | nindent 10 }}
    {{- end }}
  ports:
    - port: {{ .port }}
      protocol: TCP
{{- end -}}
