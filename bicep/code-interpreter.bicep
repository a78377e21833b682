// A session pool of Container Apps, in which the worker executes Python of code_interpreter: each thread's in a sandbox of
// its own, behind Hyper-V. It costs nothing while no session is allocated: docs/operations.md.

@description('Name of the pool: lowercase letters and digits, a letter first.')
param name string

@description('Region.')
param location string

@description('Tags of all resources.')
param tags object

@description('Object id of the service\'s identity.')
param servicePrincipalId string

@description('Maximum number of sessions at once.')
param sessions int

@description('Seconds without a request after which the pool ends a session.')
param cooldown int

var sessionExecutor = '0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0'

// Not the verified module: whether a published version takes a lifecycle could not be looked up.
resource pool 'Microsoft.App/sessionPools@2025-07-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    containerType: 'PythonLTS'
    poolManagementType: 'Dynamic'
    scaleConfiguration: { maxConcurrentSessions: sessions }
    dynamicPoolConfiguration: {
      lifecycleConfiguration: { lifecycleType: 'Timed', cooldownPeriodInSeconds: cooldown }
    }
    sessionNetworkConfiguration: { status: 'EgressDisabled' } // code of models reaches no network
  }
}

// Azure ContainerApps Session Executor: executes code in sessions, and reads and writes their files. It cannot change the
// pool, nor open its network.
resource mayExecuteCode 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(pool.id, servicePrincipalId, sessionExecutor)
  scope: pool
  properties: {
    principalId: servicePrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sessionExecutor)
  }
}

@description('Address of the pool\'s management API.')
output endpoint string = pool.properties.poolManagementEndpoint
