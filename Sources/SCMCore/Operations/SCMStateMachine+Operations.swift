import Model
import Wire

// What is wanted of datanodes. In service is what has no row.

extension SCMStateMachine {
    /// All of the changes, or none where one of the datanodes is not as it is said to be.
    func operate(
        _ change: SCMCommand.Operate, in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        for each in change.changes {
            let id = Identity128(each.operation.node)
            guard transaction.get(SCMTable.nodes, SCMTable.key(id)) != nil else {
                return .refused(.noSuchNode(id))
            }
            let known = operation(of: id, in: transaction) ?? SCMNodeOperation()
            guard known.state == each.from,
                known.endsAtMilliseconds == each.fromEndsAtMilliseconds
            else { return .refused(.nodeIs(id, known.state)) }
        }
        return .changed(
            change.changes.map { each in
                let id = Identity128(each.operation.node)
                let key = SCMTable.key(id)
                guard each.operation.state != .inService else {
                    transaction.delete(SCMTable.operations, key)
                    return .operation(id, nil)
                }
                transaction.put(SCMTable.operations, key, each.operation.encoded)
                return .operation(id, each.operation)
            })
    }

    func set(
        _ change: SCMCommand.SetBalance, in transaction: some MetadataTransaction
    ) -> SCMAnswer {
        let known = transaction.get(SCMTable.values, SCMTable.balanceKey)
            .flatMap { try? SCMBalance(parsing: $0) }
        guard known?.sinceMilliseconds ?? 0 == change.fromSinceMilliseconds else {
            return .refused(.isBalancingAnew)
        }
        transaction.put(SCMTable.values, SCMTable.balanceKey, change.balance.encoded)
        return .changed([.balance(change.balance)])
    }

    private func operation(
        of id: DatanodeID, in transaction: some MetadataReader
    ) -> SCMNodeOperation? {
        transaction.get(SCMTable.operations, SCMTable.key(id)).flatMap {
            try? SCMNodeOperation(parsing: $0)
        }
    }
}
