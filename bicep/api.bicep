// The API: `assistants api` on App Service (Linux), any number of instances.

@description('Name of the app, and of its address.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Resource id of the identity.')
param identityId string

@description('Size of the plan.')
param planSku string

@description('Instances.')
param instances int

@description('Maximum number of instances. Not more than `instances`: their number is fixed. 0: autoscale is left as it is.')
param maxInstances int

@description('Settings by name.')
param settings object

@description('Settings that are secrets in the vault.')
param secretNames string[]

@description('Name of the vault.')
param vaultName string

@description('Resource id of the workspace that logs go to.')
param workspaceId string

@description('Subnet for calls of the app. Empty: no virtual network.')
param subnetId string

module plan 'br/public:avm/res/web/serverfarm:0.7.0' = {
  name: 'api-plan'
  params: {
    name: 'plan-${name}'
    location: location
    tags: tags
    kind: 'linux'
    reserved: true
    skuName: planSku
    skuCapacity: instances
    zoneRedundant: false
    enableTelemetry: false
  }
}

var planId = resourceId('Microsoft.Web/serverfarms', 'plan-${name}')
var triggers = [
  { metric: 'CpuPercentage', operator: 'GreaterThan', threshold: 70, direction: 'Increase', window: 'PT5M' }
  { metric: 'MemoryPercentage', operator: 'GreaterThan', threshold: 85, direction: 'Increase', window: 'PT5M' }
  { metric: 'CpuPercentage', operator: 'LessThan', threshold: 30, direction: 'Decrease', window: 'PT15M' }
]

// Instances are added one by one when all are busy, and taken away more slowly: a streamed answer ends with its instance.
// A deployment removes nothing that it made before, so what is on is turned off by a setting that is not enabled.
resource autoscale 'Microsoft.Insights/autoscaleSettings@2022-10-01' = if (maxInstances > 0) {
  name: 'scale-${name}'
  location: location
  tags: tags
  properties: {
    enabled: maxInstances > instances
    targetResourceUri: plan.outputs.resourceId
    profiles: [
      {
        name: 'by load'
        capacity: { minimum: string(instances), maximum: string(max(instances, maxInstances)), default: string(instances) }
        rules: map(triggers, trigger => {
          metricTrigger: {
            metricName: trigger.metric
            metricResourceUri: planId
            timeGrain: 'PT1M'
            statistic: 'Average'
            timeWindow: trigger.window
            timeAggregation: 'Average'
            operator: trigger.operator
            threshold: trigger.threshold
          }
          scaleAction: { direction: trigger.direction, type: 'ChangeCount', value: '1', cooldown: trigger.window }
        })
      }
    ]
  }
}

// App Service reads the secrets by the identity: at the start, and within a day of a change.
var references = toObject(secretNames, secret => secret, secret => '@Microsoft.KeyVault(VaultName=${vaultName};SecretName=${replace(secret, '_', '-')})')

module site 'br/public:avm/res/web/site:0.23.1' = {
  name: 'api-site'
  params: {
    name: name
    location: location
    tags: union(tags, { 'azd-service-name': 'api' })
    kind: 'app,linux'
    serverFarmResourceId: plan.outputs.resourceId
    managedIdentities: { userAssignedResourceIds: [identityId] }
    keyVaultAccessIdentityResourceId: identityId
    httpsOnly: true
    clientAffinityEnabled: false // any instance answers anything
    publicNetworkAccess: 'Enabled'
    virtualNetworkSubnetResourceId: empty(subnetId) ? null : subnetId
    outboundVnetRouting: empty(subnetId) ? null : { allTraffic: true }
    basicPublishingCredentialsPolicies: [
      { name: 'ftp', allow: false }
      { name: 'scm', allow: false }
    ]
    siteConfig: {
      linuxFxVersion: 'PYTHON|3.13'
      appCommandLine: 'python -m assistants_service api'
      alwaysOn: true
      healthCheckPath: '/health/ready'
      http20Enabled: true
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      ftpsState: 'Disabled'
    }
    configs: [
      {
        name: 'appsettings'
        retainCurrentAppSettings: false // what is not in here is not set
        properties: union(settings, references, {
          HOST: '0.0.0.0'
          PORT: '8000' // where App Service looks for a Python app
          SCM_DO_BUILD_DURING_DEPLOYMENT: 'true' // installs requirements.txt
          WEBSITES_CONTAINER_STOP_TIME_LIMIT: '30' // seconds between SIGTERM and the end; without it, five
          WEBSITE_HEALTHCHECK_MAXPINGFAILURES: '3'
        })
      }
    ]
    diagnosticSettings: [
      {
        workspaceResourceId: workspaceId
        logCategoriesAndGroups: [{ category: 'AppServiceConsoleLogs' }, { category: 'AppServicePlatformLogs' }]
      }
    ]
    enableTelemetry: false
  }
}

@description('Resource id of the app.')
output siteId string = site.outputs.resourceId

@description('Address of the app.')
output url string = 'https://${site.outputs.defaultHostname}'
