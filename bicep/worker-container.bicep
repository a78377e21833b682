// The worker as a container (Container Apps): `assistants worker`, scaled by the queue.

@description('Name of the app.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Resource id of the identity.')
param identityId string

@description('Image.')
param image string

@description('Maximum number of replicas.')
param instances int

@description('Name of the service\'s storage account.')
param storageName string

@description('Settings by name.')
param settings object

@description('Settings that are secrets in the vault.')
param secretNames string[]

@description('Address of the vault, with a slash at its end.')
param vaultUri string

@description('Resource id of the workspace that logs go to.')
param workspaceId string

@description('Subnet of the environment. Empty: no virtual network.')
param subnetId string

// A replica that is stopped finishes its runs, which live ten minutes by default (RUN_EXPIRES_AFTER). Interpreters have to
// leave room for the worker: where memory runs out, Kubernetes ends all processes of a container.
var all = union({ SHUTDOWN_GRACE: '590', CODE_INTERPRETER_PROCESSES: '2', CODE_INTERPRETER_MEMORY_MB: '256' }, settings)
var plain = [for setting in items(all): { name: setting.key, value: setting.value }]
var secret = [for setting in secretNames: { name: setting, secretRef: toLower(replace(setting, '_', '-')) }]

module apps 'br/public:avm/res/app/managed-environment:0.16.0' = {
  name: 'worker-environment'
  params: {
    name: 'cae-${name}'
    location: location
    tags: tags
    zoneRedundant: false
    infrastructureSubnetResourceId: empty(subnetId) ? null : subnetId
    internal: false
    publicNetworkAccess: 'Enabled'
    workloadProfiles: [{ name: 'Consumption', workloadProfileType: 'Consumption' }]
    appLogsConfiguration: { destination: 'azure-monitor' }
    diagnosticSettings: [
      {
        workspaceResourceId: workspaceId
        logCategoriesAndGroups: [{ category: 'ContainerAppConsoleLogs' }, { category: 'ContainerAppSystemLogs' }]
      }
    ]
    enableTelemetry: false
  }
}

// Not the verified module: it knows no terminationGracePeriodSeconds.
resource worker 'Microsoft.App/containerApps@2025-01-01' = {
  name: name
  location: location
  tags: tags
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  }
  properties: {
    environmentId: apps.outputs.resourceId
    workloadProfileName: 'Consumption'
    configuration: {
      activeRevisionsMode: 'Single'
      registries: contains(image, '.azurecr.io/') ? [{ server: split(image, '/')[0], identity: identityId }] : []
      secrets: [
        for setting in secretNames: {
          name: toLower(replace(setting, '_', '-'))
          keyVaultUrl: '${vaultUri}secrets/${replace(setting, '_', '-')}'
          identity: identityId
        }
      ]
    }
    template: {
      terminationGracePeriodSeconds: 600 // more than SHUTDOWN_GRACE
      containers: [
        {
          name: 'worker'
          image: image
          command: ['assistants', 'worker']
          resources: { cpu: json('0.5'), memory: '1Gi' }
          env: concat(plain, secret)
        }
      ]
      scale: {
        minReplicas: 1 // a run waits half a minute for the first replica otherwise
        maxReplicas: instances
        rules: [
          {
            name: 'work'
            custom: {
              type: 'azure-queue'
              identity: identityId
              metadata: {
                accountName: storageName
                queueName: 'work'
                queueLength: '20'
                // Hidden items are in work, or wait for a client or for their time: more workers would not help them.
                queueLengthStrategy: 'visibleonly'
              }
            }
          }
        ]
      }
    }
  }
}
