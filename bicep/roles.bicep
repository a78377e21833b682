// Who may do what with data and secrets: the least built-in roles that work. Azure OpenAI has its own file, as the
// account may lie elsewhere, and so has the Functions host's storage.

@description('Object id of the service\'s identity.')
param servicePrincipalId string

@description('Object id of the person or pipeline that deploys. Empty: none.')
param personId string

@description('Name of the storage account.')
param storageName string

@description('Name of the vault.')
param vaultName string

var blobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var queueDataContributor = '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var secretsOfficer = 'b86a8fe4-44ce-4948-aee5-eccb2c155cd7'

resource storage 'Microsoft.Storage/storageAccounts@2025-06-01' existing = {
  name: storageName
}

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' existing = {
  name: vaultName
}

// Storage Blob Data Contributor: reads, conditional writes, appends, lists and deletes of blobs; Create Container at
// the start. Reader and Delegator cannot write; Owner could change permissions too.
resource mayUseBlobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, servicePrincipalId, blobDataContributor)
  scope: storage
  properties: {
    principalId: servicePrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataContributor)
  }
}

// Storage Queue Data Contributor: the API puts messages; the worker gets, updates (to keep an item hidden) and deletes
// them, and buries what is poison. Message Sender and Message Processor together lack Update Message.
resource mayUseQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, servicePrincipalId, queueDataContributor)
  scope: storage
  properties: {
    principalId: servicePrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', queueDataContributor)
  }
}

// Key Vault Secrets User: App Service, Functions and Container Apps read by this identity what settings refer to.
resource mayReadSecrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, servicePrincipalId, secretsUser)
  scope: vault
  properties: {
    principalId: servicePrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}

// The person: `assistants keys`, backups, and a look at logs.
resource personMayUseBlobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(personId)) {
  name: guid(storage.id, personId, blobDataContributor)
  scope: storage
  properties: {
    principalId: personId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataContributor)
  }
}

// The person: to look at poison and put it back.
resource personMayUseQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(personId)) {
  name: guid(storage.id, personId, queueDataContributor)
  scope: storage
  properties: {
    principalId: personId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', queueDataContributor)
  }
}

// Key Vault Secrets Officer for the person: reads the first key (azd too, at the next deployment), sets and rotates.
resource personMaySetSecrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(personId)) {
  name: guid(vault.id, personId, secretsOfficer)
  scope: vault
  properties: {
    principalId: personId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsOfficer)
  }
}
