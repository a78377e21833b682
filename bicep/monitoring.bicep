// Log Analytics and Application Insights.

@description('Suffix of the resource names.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Days for which logs and telemetry are kept.')
param days int

module workspace 'br/public:avm/res/operational-insights/workspace:0.16.1' = {
  name: 'workspace'
  params: {
    name: 'log-${name}'
    location: location
    tags: tags
    skuName: 'PerGB2018'
    dataRetention: days
    enableTelemetry: false
  }
}

module insights 'br/public:avm/res/insights/component:0.8.0' = {
  name: 'insights'
  params: {
    name: 'appi-${name}'
    location: location
    tags: tags
    kind: 'web'
    applicationType: 'web'
    workspaceResourceId: workspace.outputs.resourceId
    enableTelemetry: false
  }
}

@description('Resource id of the workspace.')
output workspaceId string = workspace.outputs.resourceId

@description('Where telemetry is sent to.')
output connectionString string = insights.outputs.connectionString
