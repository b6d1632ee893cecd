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

{{- define "metastore-proxy.cluster" -}}
QW_CLUSTER_ID: {{ .Values.cluster.id | quote }}
QW_PEER_SEEDS: {{ append .Values.cluster.peerSeeds (printf "%s-gossip" (include "metastore-proxy.name" .)) | join "," | quote }}
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
  appProtocol: kubernetes.io/h2c
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
